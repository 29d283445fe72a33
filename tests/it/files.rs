//! Files that the engine and the command line create belong to their owner alone, and files that other users may have read or
//! changed are refused.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

use serde_json::json;

use crate::engine::{Engine, KEY, store_is_a_file};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o7777
}

fn set(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Returns every file and folder below `folder` that other users can access.
fn open_to_others(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if mode(&path) & 0o077 != 0 {
            found.push(format!("{} {:o}", path.display(), mode(&path)));
        }
        if path.is_dir() {
            found.extend(open_to_others(&path));
        }
    }
    found
}

/// Runs a command under the umask that most systems have.
fn under_usual_umask(engine: &Engine, line: &[&str]) -> std::process::Output {
    let mut command = Command::new("sh");
    let program = engine.command().get_program().to_owned();
    command.args(["-c", "umask 022; exec \"$@\"", "sh"]).arg(program).args(line);
    command.envs(engine.command().get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(engine.data_folder().parent().unwrap()).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn closes_new_and_existing_files_to_other_users() {
    // With a database the files are the same. But this test removes the master key, without which the engine cannot open the database.
    if !store_is_a_file() {
        return;
    }
    let mut engine = Engine::start(&[]);
    engine.stop();
    let data = engine.data_folder();
    fs::remove_dir_all(&data).unwrap();
    engine.set_wrapper(&["sh", "-c", "umask 000; exec \"$0\" \"$@\""]);
    engine.launch();
    engine.set_wrapper(&[]);
    engine.send("a.b", json!({})).await;
    let files = |names: &[&str]| names.iter().map(|name| data.join(name)).collect::<Vec<_>>();
    let made = files(&["lock", "master.key", "cache", "cache/key", "innesco.db", "innesco.db-wal", "innesco.db-shm"]);
    assert!(made.iter().all(|path| path.exists()), "{made:?}");
    assert_eq!((mode(&data), open_to_others(&data)), (0o700, Vec::<String>::new()));

    // An earlier version created files with these modes.
    engine.kill();
    set(&data, 0o755);
    for name in ["innesco.db", "innesco.db-wal", "innesco.db-shm", "lock"] {
        set(&data.join(name), 0o644);
    }
    engine.launch();
    assert_eq!((mode(&data), open_to_others(&data)), (0o700, Vec::<String>::new()));
    assert!(engine.log().contains("path was open to other users of this machine"), "{}", engine.log());
    let copied = under_usual_umask(&engine, &["backup", "copy.db", "--data", "data"]);
    assert!(copied.status.success(), "{copied:?}");
    assert_eq!(mode(&data.with_file_name("copy.db")), 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_keys_and_compiled_code_open_to_others_at_start() {
    let mut engine = Engine::start(&[]);
    engine.stop();
    let data = engine.data_folder();
    for (name, wide, narrow) in
        [("master.key", 0o644, 0o600), ("master.key", 0o660, 0o600), ("cache", 0o777, 0o700), ("cache/key", 0o604, 0o600)]
    {
        let path = data.join(name);
        set(&path, wide);
        let serve = ["serve", "--listen", "127.0.0.1:0", "--data", "data", "--plugins", "plugins"];
        let output = engine.command().args(serve).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{name} {wide:o}: {text}");
        let help = format!("other users may open it (mode {wide:04o}). Run: chmod {narrow:o} data/{name}");
        assert!(text.contains(&help), "{name} {wide:o}: {text}");
        set(&path, narrow);
    }
    engine.launch();
}

/// Accepts one connection and returns the first data that it receives.
fn overheard(listener: TcpListener) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut head = vec![0; 4096];
        let length = socket.read(&mut head).unwrap();
        // If this fails, the sender's own error shows it.
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        String::from_utf8_lossy(&head[..length]).into_owned()
    })
}

#[test]
fn a_key_is_not_sent_to_an_address_from_a_foreign_folder() {
    let home = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let file = home.path().join(".innesco/local.toml");
    fs::create_dir(file.parent().unwrap()).unwrap();
    fs::write(&file, format!("url = \"{url}\"\nkey = \"innk_theirs\"\n")).unwrap();
    set(&file, 0o600);
    let below = home.path().join("below");
    fs::create_dir(&below).unwrap();
    let command = |key: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_innesco"));
        command.args(["event", "list"]).current_dir(&below).env_remove("INNESCO_URL").env_remove("INNESCO_KEY");
        command.envs(key.map(|key| ("INNESCO_KEY", key)));
        command
    };
    let refused = command(Some(KEY)).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(text.starts_with("the key from INNESCO_KEY is not sent to the address in "), "{text}");
    // A file that other users may have written is not used either.
    set(&file, 0o666);
    let refused = command(None).output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("is ignored; use --url and --key instead"), "{text}");

    set(&file, 0o600);
    let heard = overheard(listener);
    command(None).output().unwrap();
    let head = heard.join().unwrap();
    assert!(
        head.contains("Bearer innk_theirs") && !head.contains(KEY),
        "the first request is the one with the file's own key: {head}"
    );
    if rustix::process::geteuid().is_root() {
        // A file of another user is not used, because that user could change it.
        let other = Command::new("chown").arg("65534").arg(&file).status();
        assert!(other.is_ok_and(|status| status.success()));
        let refused = command(None).output().unwrap();
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(text.contains("it belongs to user 65534, and this program runs as user 0"), "{text}");
    }
}

#[test]
fn variables_with_malformed_values_are_refused_by_name() {
    use std::os::unix::ffi::OsStringExt as _;
    let home = tempfile::tempdir().unwrap();
    let check = |name: &str, value: &[u8], arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_innesco"));
        command.args(arguments).current_dir(home.path()).env(name, std::ffi::OsString::from_vec(value.to_vec()));
        command.arg0("innesco");
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let serve = ["serve", "--listen", "127.0.0.1:0"];
    for (name, value, arguments, named) in [
        ("INNESCO_DATA", &b"d\xe4ta"[..], &["serve", "--check"][..], "INNESCO_DATA is not text in UTF-8"),
        ("INNESCO_LISTEN", b"127.0.0.1:0\nx", &["serve", "--check"], "INNESCO_LISTEN contains a line end"),
        ("INNESCO_ADMIN_KEY", b"one two three four", &serve, "INNESCO_ADMIN_KEY contains a blank"),
        ("INNESCO_ADMIN_KEY", b"\r\n", &serve, "INNESCO_ADMIN_KEY is empty"),
        ("INNESCO_LOG_LEVEL", b"loud=1=2", &serve, "INNESCO_LOG_LEVEL = \"loud=1=2\" is not a list of log levels"),
        ("INNESCO_KEY", b"a\nb", &["event", "list"], "INNESCO_KEY contains a line end"),
        ("INNESCO_KEY", b"\xff", &["event", "list"], "INNESCO_KEY is not text in UTF-8"),
    ] {
        let (ok, text) = check(name, value, arguments);
        assert!(!ok && text.starts_with(named), "{name}: {text}");
        assert!(!home.path().join("innesco-data").exists(), "{name}: nothing is created before the refusal");
    }
}
