//! Advice for the author of a plugin that needs what the platform does not have: a clock, randomness, files, a network, threads.
//!
//! Dependencies of common crates need these. The error appears at build time, as an import of a browser's JavaScript, or as a
//! panic. It does not say what a plugin must use instead. Each function takes such an error and returns the matching advice.

/// A text to search for, and the advice for it.
type Case = (&'static str, &'static str);

/// Panics of Rust's standard library, and of crates that need a clock, files or a network. The first match applies.
const PANICS: [Case; 11] = [
    (
        "time not implemented on this platform",
        "a plugin has no clock (SystemTime, Instant, chrono's Utc::now and tokio's timers ask for one); use event.time",
    ),
    ("failed to spawn thread", "a plugin has no threads; do the work in handle itself"),
    ("can't sleep", "a plugin cannot wait; return Error::retryable, and the engine runs the event again later"),
    ("there is no reactor running", "a plugin has no async runtime; return a Webhook, and the engine sends it"),
    ("condvar wait not supported", "a plugin has no threads, so nothing can wake it; do the work in handle itself"),
    (
        "operation not supported on this platform",
        "a plugin has no files, network, processes or threads; build data in with include_str!, read settings with config::get, \
         keep values with state::set, and return a Webhook instead of sending a request",
    ),
    ("an `Err` value: NotPresent", "a plugin has no environment variables; read settings with config::get"),
    ("getrandom", "a plugin has no randomness; take an id from event.id"),
    (
        "no filesystem on this platform",
        "a plugin has no files; build data in with include_str!, or read settings with config::get",
    ),
    ("no pids on this platform", "a plugin is not a process and has no process id; use event.id to distinguish runs"),
    // `std::env::vars`.
    ("not supported on this platform", "a plugin has no environment variables; read settings with config::get"),
];

/// Returns what a plugin that panicked with this message should do instead, if the cause is a missing part of the platform.
pub fn for_panic(message: &str) -> Option<&'static str> {
    find(&PANICS, message)
}

/// Names of wasm-bindgen's imports, and advice for the crate that needs them. The first match applies, because an HTTP client also
/// imports functions for dates.
const BROWSER: [Case; 9] = [
    ("fetch", "reqwest and other HTTP clients do that; a plugin has no network: return a Webhook, and the engine sends it"),
    ("WebSocket", "clients of WebSockets do that; a plugin has no network: return a Webhook, and the engine sends it"),
    ("getRandomValues", RANDOM),
    ("randomFillSync", RANDOM),
    ("setTimeout", "timers do that; a plugin cannot wait: return Error::retryable, and the engine runs the event again later"),
    ("performance", "web-time and instant do that; a plugin has no clock: use event.time"),
    ("getTime", CHRONO),
    ("new0", CHRONO),
    ("Date", CHRONO),
];
const RANDOM: &str = "getrandom does that with its \"js\" or \"wasm_js\" feature, and uuid and rand through it; a plugin has no randomness: take \
                      ids from event.id, or uuid's new_v5 of it";
const CHRONO: &str = "chrono does that with its default features; write chrono = { default-features = false, features = [\"std\"] }, and use \
                      event.time instead of Utc::now";

/// Returns which crate probably needs wasm-bindgen, and what to do, from the names of the imports.
pub fn for_browser_imports<'a>(names: impl Iterator<Item = &'a str> + Clone) -> &'static str {
    let fits = |(word, _): &&Case| names.clone().any(|name| name.contains(word) || name.contains(&word.to_lowercase()));
    BROWSER.iter().find(fits).map_or(
        "chrono does that with its default features, getrandom, uuid and rand with \"js\", and HTTP clients such as reqwest; write chrono = { \
         default-features = false, features = [\"std\"] }, use event.time and event.id, and return a Webhook instead of sending a request",
        |(_, advice)| advice,
    )
}

/// Parts of the names of imports that plugins cannot use, and advice by the purpose of the import.
const IMPORTS: [Case; 9] = [
    ("wasi:http", NETWORK),
    ("socket", NETWORK),
    ("wasi:keyvalue", "a plugin keeps values in its own state: use state::get and state::set"),
    ("wasi:config", "a plugin reads its settings with config::get"),
    ("getrandom", "a plugin has no randomness; take ids from event.id, and leave getrandom's custom backend out"),
    ("wasi_thread", "a plugin has no threads; build it for a target without them"),
    ("thread-spawn", "a plugin has no threads; build it for a target without them"),
    ("emscripten", FOREIGN),
    ("env.", FOREIGN),
];
const NETWORK: &str = "plugins have no network. Return a webhook and the engine sends it";
const FOREIGN: &str =
    "such imports come from C, Emscripten or a missing extern crate. Build with the SDK for wasm32-unknown-unknown";

/// Returns what to do about imports that plugins cannot use.
pub fn for_imports<'a>(names: impl Iterator<Item = &'a str> + Clone) -> &'static str {
    let case = IMPORTS.iter().find(|(word, _)| names.clone().any(|name| name.contains(word)));
    case.map_or("a plugin has only its log, its config and its state. Build with the SDK alone", |(_, advice)| advice)
}

/// Errors of crates that do not build for the target of plugins.
const BUILDS: [Case; 9] = [
    (
        "to use `uuid` on `wasm32-unknown-unknown`",
        "A plugin has no randomness: leave uuid's \"v4\" and \"v7\" features out, and use Uuid::new_v5 of event.id, or event.id itself.",
    ),
    ("wasm32-unknown-unknown targets are not supported by default", NO_RANDOMNESS),
    // getrandom 0.4.
    ("wasm32/64-unknown-unknown are not supported by default", NO_RANDOMNESS),
    ("wasm*-unknown-unknown targets are not supported by default", NO_RANDOMNESS),
    (
        "are supported on wasm",
        "A plugin needs no tokio: handle is called once for each event and returns what is to be sent. Leave tokio and its features \"net\", \
         \"fs\", \"process\" and \"rt-multi-thread\" out.",
    ),
    (
        "This wasm target is unsupported by mio",
        "A plugin has no network: return a Webhook, and the engine sends it. Leave tokio's \"net\" out, and the client that needs it.",
    ),
    (
        "Socket2 doesn't support the compile target",
        "A plugin has no network: return a Webhook, and the engine sends it. Leave out the client that needs socket2.",
    ),
    (
        "`blocking` in `reqwest`",
        "A plugin has no network: leave reqwest out, and return a Webhook. The engine sends it, signed and with retries.",
    ),
    (
        "error occurred in cc-rs",
        "A dependency compiles C, which plugins cannot link (often ring, zstd-sys or libsqlite3-sys): find it with cargo tree --invert cc, \
         and use a crate in pure Rust.",
    ),
];

const NO_RANDOMNESS: &str = "A plugin has no randomness: find which crate needs getrandom with cargo tree --invert getrandom (often rand, or uuid \
                             with \"v4\"), leave that feature out, and take ids from event.id.";

/// Returns what to do about a crate that does not build for the target of plugins, if the compiler's error is known.
pub fn for_build(errors: &str) -> Option<&'static str> {
    find(&BUILDS, errors)
}

fn find(cases: &[Case], text: &str) -> Option<&'static str> {
    cases.iter().find(|(words, _)| text.contains(words)).map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases are panics of Rust's standard library on a target without an operating system, as Rust 1.95 prints them for
    /// wasm32-unknown-unknown.
    #[test]
    fn advice_names_the_replacement() {
        let io = "called `Result::unwrap()` on an `Err` value: Error { kind: Unsupported, message: \"operation not supported on this platform\" }";
        let panics = [
            ("time not implemented on this platform", "event.time"),
            (io, "config::get"),
            (&format!("failed to spawn thread: {io}"), "no threads"),
            ("called `Result::unwrap()` on an `Err` value: NotPresent", "config::get"),
            ("there is no reactor running, must be called from the context of a Tokio 1.x runtime", "return a Webhook"),
            ("can't sleep", "Error::retryable"),
            ("condvar wait not supported", "no threads"),
            ("no filesystem on this platform", "include_str!"),
            ("no pids on this platform", "event.id"),
            ("not supported on this platform", "environment variables"),
            ("could not retrieve random bytes for uuid: getrandom: this target is not supported", "event.id"),
        ];
        for (message, expected) in panics {
            let advice =
                for_panic(&format!("panicked at src/lib.rs:1:1: {message}")).unwrap_or_else(|| panic!("no advice: {message}"));
            assert!(advice.contains(expected), "{message}: {advice}");
        }
        assert_eq!(for_panic("panicked at src/lib.rs:13:29: unlucky 13"), None);
    }

    /// The cases are imports of a browser's JavaScript.
    #[test]
    fn browser_imports_reveal_the_crate() {
        let cases = [
            ("__wbg_getRandomValues_38a1ff1ea09f6cc7", "getrandom"),
            ("__wbg_getTime_14776bfb48a1bff9", "chrono"),
            ("__wbg_new0_b0a0a38c201e6df5", "chrono"),
            ("__wbg_fetch_07cd86dd296a5a63", "reqwest"),
            ("__wbg_performance_c185c0cdc2766575", "web-time"),
            ("__wbg_now_2c95c9de01293173", "chrono"),
            ("__wbg_randomFillSync_ac0988aba3254290", "getrandom"),
            ("__wbg_setTimeout_7bb3429662ab1e70", "timers"),
            ("__wbg_crypto_1d1f22824a6a080c", "getrandom"),
            ("__wbg_getTimezoneOffset_6b5752021c499c47", "chrono"),
            ("__wbindgen_throw", "chrono"),
        ];
        for (name, expected) in cases {
            let advice = for_browser_imports([name, "__wbindgen_throw"].into_iter());
            assert!(advice.starts_with(expected) || advice.contains(expected), "{name}: {advice}");
        }
    }

    /// The cases are imports that the engine does not have.
    #[test]
    fn unknown_imports_get_advice() {
        for (name, expected) in [
            ("wasi:http/outgoing-handler@0.2.0", "Return a webhook"),
            ("wasi:sockets/tcp@0.2.0", "Return a webhook"),
            ("wasi:keyvalue/store@0.2.0-draft", "state::get"),
            ("wasi:config/store@0.2.0-draft", "config::get"),
            ("env.__getrandom_v03_custom", "take ids from event.id"),
            ("wasi.thread-spawn", "no threads"),
            ("env.emscripten_notify_memory_growth", "C, Emscripten"),
            ("env.memcpy", "C, Emscripten"),
            ("extism:host/env.input_length", "C, Emscripten"),
            ("spin:sqlite/sqlite", "Build with the SDK alone"),
        ] {
            let advice = for_imports([name].into_iter());
            assert!(advice.contains(expected), "{name}: {advice}");
        }
    }

    /// The cases are errors of crates that do not build for plugins: uuid 1.29, getrandom 0.2, 0.3 and 0.4, tokio 1.54, mio 1.2,
    /// socket2 0.6 and cc 1.2.
    #[test]
    fn a_crate_that_does_not_build_gets_advice() {
        for (error, expected) in [
            (
                "error: to use `uuid` on `wasm32-unknown-unknown`, specify a source of randomness using one of the `js`, `rng-getrandom`, or \
                 `rng-rand` features",
                "Uuid::new_v5",
            ),
            (
                "error: the wasm*-unknown-unknown targets are not supported by default, you may need to enable the \"js\" feature.",
                "cargo tree --invert getrandom",
            ),
            (
                "error: The wasm32-unknown-unknown targets are not supported by default; you may need to enable the \"wasm_js\" \
                 configuration flag.",
                "cargo tree --invert getrandom",
            ),
            (
                "error: The wasm32/64-unknown-unknown are not supported by default; you may need to enable the \"wasm_js\" crate feature.",
                "cargo tree --invert getrandom",
            ),
            ("error: Only features sync,macros,io-util,rt,time are supported on wasm.", "needs no tokio"),
            ("error: This wasm target is unsupported by mio. If using Tokio, disable the net feature.", "no network"),
            ("error[E0433]: cannot find `blocking` in `reqwest`", "leave reqwest out"),
            ("error: Socket2 doesn't support the compile target", "no network"),
            ("error occurred in cc-rs: failed to find tool \"clang\": No such file or directory", "cargo tree --invert cc"),
        ] {
            let advice = for_build(error).unwrap_or_else(|| panic!("no advice: {error}"));
            assert!(advice.contains(expected), "{error}: {advice}");
        }
        assert_eq!(for_build("error[E0425]: cannot find value `x`"), None);
    }
}
