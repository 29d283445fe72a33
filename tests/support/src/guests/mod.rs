//! Guests: plugins in WebAssembly text, most of them hostile. The first lines of each file describe it.
//!
//! [`wasm`] turns such a text into the same kind of file that the SDK builds from a crate: a core module with the types of its
//! world in a custom section, ready for a plugin folder. Lines that begin with `;;@` insert parts that every guest needs. A guest
//! whose world is not that of the first contract names its world in a line `;; world: …`.

pub mod mutate;

use std::{fmt::Write as _, fs};

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The hostile guests that load. Every run of a guest ends with the outcome beside its name.
pub const HOSTILE: [(&str, &str); 13] = [
    ("deep-recursion", "trapped"),
    ("divide-by-zero", "trapped"),
    ("endless-loop", "deadline"),
    ("huge-output", "bad-output"),
    ("log-flood", "ok"),
    ("memory-bomb", "out-of-memory"),
    ("out-of-bounds", "trapped"),
    ("panic", "trapped"),
    ("several-memories", "out-of-memory"),
    ("state-flood", "bad-output"),
    ("ten-thousand-webhooks", "bad-output"),
    ("trap", "trapped"),
    ("wild-pointer", "bad-output"),
];

/// Returns the guest as the bytes of a `.wasm` file: a plugin with the guest's name that runs on `hostile.*`.
pub fn wasm(guest: &str) -> Vec<u8> {
    build(guest, guest, &["hostile.*"])
}

/// Builds the guest with another name, for other event types.
pub fn build(guest: &str, name: &str, on: &[&str]) -> Vec<u8> {
    let root = crate::root();
    let path = root.join("tests/guests").join(format!("{guest}.wat"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("guest {guest}: {error}"));
    let world = text.lines().find_map(|line| line.strip_prefix(";; world: ")).unwrap_or("contract");
    let version = match world {
        "newer" => "1.2.0",
        "current" => "1.1.0",
        _ => "1.0.0",
    };
    let text = text
        .replace(";;@memory", "(memory (export \"memory\") 2)")
        .replace(";;@plugin", &format!("{}{REALLOC}", describe(name, on, version)))
        .replace(";;@realloc", REALLOC)
        .replace(";;@bulk", &format!("(data (i32.const 1048576) \"{}\")", "x".repeat(3 << 20)))
        .replace(";;@webhook", WEBHOOK);
    let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("guest {guest}: {error}"));
    if world == "none" {
        return module;
    }
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("the contract exists");
    let (contract, current) = (read("tests/guests/contract-1.0.0.wit"), read("plugin-sdk/wit/plugin.wit"));
    let wit = match world {
        "contract" => contract,
        "current" => current,
        "newer" => current
            .replace("plugin@1.1.0", "plugin@1.2.0")
            .replace("delete: func(key: string);", "delete: func(key: string);\n  keys: func() -> list<string>;"),
        "no-handler" => contract.replace("export handler;", ""),
        "network" => contract.replace("import log;", "import acme:net/http@1.0.0;\n  import log;") + NETWORK,
        "wasi" => contract.replace("import log;", &format!("{WASI_IMPORTS}\n  import log;")) + WASI,
        other => panic!("guest {guest}: there is no world {other:?}"),
    };
    let mut resolve = Resolve::default();
    let package = resolve.push_str("guest.wit", &wit).expect("the world parses");
    let world = resolve.select_world(&[package], Some("plugin")).expect("the world exists");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("the types fit into a section");
    module
}

/// Returns the function `describe`, with its manifest in the layout of the canonical ABI at the addresses 1 KiB to 8 KiB.
fn describe(name: &str, on: &[&str], version: &str) -> String {
    const RECORD: u32 = 1024;
    const LIST: u32 = 1088;
    const TEXTS: u32 = 2048;
    let mut texts = Vec::new();
    let mut text = |text: &str| {
        let place = [TEXTS + texts.len() as u32, text.len() as u32];
        texts.extend_from_slice(text.as_bytes());
        place
    };
    let strings = [text(name), text("1.0.0"), text("a guest of the tests")].concat();
    let patterns = on.iter().map(|pattern| text(pattern)).collect::<Vec<_>>().concat();
    let record = [&strings[..], &[LIST, on.len() as u32, 0, 0]].concat();
    let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let mut out = String::new();
    for (at, data) in [(RECORD, bytes(&record)), (LIST, bytes(&patterns)), (TEXTS, texts)] {
        let escaped: String = data.iter().map(|byte| format!("\\{byte:02x}")).collect();
        writeln!(out, "(data (i32.const {at}) \"{escaped}\")").expect("a string takes every text");
    }
    writeln!(out, "(func (export \"innesco:plugin/handler@{version}#describe\") (result i32) (i32.const {RECORD}))")
        .expect("a string takes every text");
    out
}

/// Allocates memory for the host's arguments, at addresses from 64 KiB upwards. This memory is never freed.
const REALLOC: &str = r#"
(global $free (mut i32) (i32.const 65536))
(func $realloc (export "cabi_realloc") (param $old i32) (param $was i32) (param $align i32) (param $bytes i32) (result i32)
  (local $at i32)
  (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
  (global.set $free (i32.add (local.get $at) (local.get $bytes)))
  (block $fits
    (loop $grow
      (br_if $fits (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 65536))))
      (br_if $grow (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))
      (unreachable)))
  (local.get $at))
"#;

/// The function `$webhook` writes a valid record of a webhook, 56 bytes long. The webhook sends the text `hi` to `receiver`.
const WEBHOOK: &str = r#"
(data (i32.const 4096) "receiver")
(data (i32.const 4112) "text/plain")
(data (i32.const 4128) "hi")
(func $webhook (param $at i32)
  (memory.fill (local.get $at) (i32.const 0) (i32.const 56))
  (i32.store8 (local.get $at) (i32.const 1))
  (i32.store offset=4 (local.get $at) (i32.const 4096))
  (i32.store offset=8 (local.get $at) (i32.const 8))
  (i32.store offset=24 (local.get $at) (i32.const 4112))
  (i32.store offset=28 (local.get $at) (i32.const 10))
  (i32.store offset=32 (local.get $at) (i32.const 4128))
  (i32.store offset=36 (local.get $at) (i32.const 2)))
"#;

const NETWORK: &str = "
package acme:net@1.0.0 {
  interface http { get: func(url: string) -> string; }
}
";

const WASI_IMPORTS: &str = "import wasi:io/poll@0.2.6;
  import wasi:io/streams@0.2.6;
  import wasi:cli/stdout@0.2.6;
  import wasi:clocks/monotonic-clock@0.2.6;
  import wasi:clocks/wall-clock@0.2.6;
  import wasi:random/random@0.2.6;";

/// The part of WASI that the guests use.
const WASI: &str = "
package wasi:io@0.2.6 {
  interface error { resource error; }
  interface poll { resource pollable { block: func(); } }
  interface streams {
    use error.{error};
    variant stream-error { last-operation-failed(error), closed }
    resource output-stream { blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>; }
  }
}
package wasi:cli@0.2.6 {
  interface stdout {
    use wasi:io/streams@0.2.6.{output-stream};
    get-stdout: func() -> output-stream;
  }
}
package wasi:clocks@0.2.6 {
  interface monotonic-clock {
    use wasi:io/poll@0.2.6.{pollable};
    subscribe-duration: func(when: u64) -> pollable;
  }
  interface wall-clock {
    record datetime { seconds: u64, nanoseconds: u32 }
    now: func() -> datetime;
  }
}
package wasi:random@0.2.6 {
  interface random { get-random-u64: func() -> u64; }
}
";

#[test]
fn every_guest_is_valid_text() {
    for (guest, _) in HOSTILE {
        assert!(wasm(guest).starts_with(b"\0asm"), "{guest}");
    }
}
