//! A disk that is full or read-only: nothing is accepted, no accepted event is lost, and the engine resumes automatically.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine, store_is_a_file},
    namespace::has_rights,
    receivers::{Answer, Received, Receiver},
    syscalls::Tampered,
};

/// A small disk in memory, mounted for one test.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(folder: &'a Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(folder).status();
        assert!(mounted.is_ok_and(|status| status.success()), "a small disk can be mounted on {}", folder.display());
        Self(folder)
    }

    /// Remounts the disk as `ro` or `rw`. Changes only this mount, because in a namespace the options of the file system itself
    /// cannot be changed.
    fn remount(&self, how: &str) {
        let mounted = Command::new("mount").args(["-o", &format!("remount,bind,{how}")]).arg(self.0).status();
        assert!(mounted.is_ok_and(|status| status.success()), "the small disk is mounted anew as {how}");
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // A lazy unmount succeeds even with open files.
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

/// A log is often on the disk of the store, so it cannot be written while that disk is full.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_stops_nothing() {
    let mut engine = Engine::start(&[]);
    engine.stop();
    std::fs::remove_file(engine.log_file()).unwrap();
    symlink("/dev/full", engine.log_file()).unwrap();
    engine.launch();
    let receiver = Receiver::start().await;
    engine.endpoint("crm", &receiver.url("/"), &["*"]).await;
    // The folder's watcher logs that it refuses this file. It still loads the next one.
    engine.write_plugin("broken.wasm", b"no plugin");
    engine.drop_in("mischief");
    engine.wait("/v1/plugins/mischief", "the next plugin serves", |plugin| plugin["state"] == "serving").await;
    engine.send("a.b", json!({})).await;
    receiver.wait_for_count(1, DEADLINE).await;
    engine.stop();
}

#[test]
fn an_admin_key_that_cannot_be_shown_is_not_kept() {
    let home = tempfile::tempdir().unwrap();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_innesco"));
        command.current_dir(home.path()).args(["serve", "--listen", "127.0.0.1:0", "--data", "data", "--plugins", "."]);
        command
    };
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = start().stdout(full).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("the new admin key cannot be written to standard output") && ended.status.code() == Some(1), "{said}");
    let mut next = start().stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(next.stdout.take().unwrap()).read_line(&mut line).unwrap();
    next.kill().unwrap();
    next.wait().unwrap();
    assert!(line.starts_with("admin key  innk_"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_no_accepted_event() {
    let test = "disk::a_full_disk_loses_no_accepted_event";
    if !store_is_a_file() || !has_rights(test, "mount a small disk") {
        // The test cannot fill the disk of a Postgres server.
        return;
    }
    let mut engine = Engine::start(&[]);
    engine.stop();
    let data = engine.data_folder();
    std::fs::remove_dir_all(&data).unwrap();
    let _disk = SmallDisk::mount(&data);
    engine.launch();
    let receiver = Receiver::start().await;
    engine.endpoint("crm", &receiver.url("/"), &["*"]).await;

    // Fills the disk until the store reports it.
    let ballast = data.join("ballast");
    std::fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let mut accepted = 0;
    let refused = loop {
        let body = json!({ "type": "a.b", "data": "x".repeat(20_000) });
        let (status, answer) = engine.call("POST", "/v1/events", body).await;
        match status {
            202 => accepted += 1,
            _ => break (status, answer),
        }
        assert!(accepted < 1_000, "a disk of 3 MiB cannot take 20 MB");
    };
    assert_eq!((refused.0, &refused.1["code"]), (503, &json!("store_full")), "{}", refused.1);
    let (status, ready) = engine.call("GET", "/readyz", Value::Null).await;
    assert_eq!(status, 503, "{ready}");

    std::fs::remove_file(&ballast).unwrap();
    engine.wait("/readyz", "the engine recovers automatically", |ready| ready["ready"] == true).await;
    engine.send("a.b", json!({})).await;
    receiver.wait_for_count(accepted + 1, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_a_read_only_data_folder_at_start() {
    let test = "disk::refuses_a_read_only_data_folder_at_start";
    if !store_is_a_file() || !has_rights(test, "mount a small disk") {
        // The test cannot fill the disk of a Postgres server.
        return;
    }
    let mut engine = Engine::start(&[]);
    engine.stop();
    let data = engine.data_folder();
    std::fs::remove_dir_all(&data).unwrap();
    let disk = SmallDisk::mount(&data);
    engine.launch();
    let receiver = Receiver::start().await;
    engine.endpoint("crm", &receiver.url("/"), &["*"]).await;
    engine.stop();

    disk.remount("ro");
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data", "data", "--plugins", "plugins"];
    let output = engine.command().args(serve).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("data folder data cannot be written; change its owner, or choose another with --data"), "{text}");
    assert!(text.contains("Read-only file system"), "the cause is shown: {text}");

    disk.remount("rw");
    engine.launch();
    engine.send("a.b", json!({})).await;
    receiver.wait_for_count(1, DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_becomes_read_only_loses_no_accepted_event() {
    let test = "disk::a_disk_that_becomes_read_only_loses_no_accepted_event";
    if !store_is_a_file() || !has_rights(test, "trace an engine") {
        // The test cannot fill the disk of a Postgres server.
        return;
    }
    let engine = Engine::start(&[]);
    // Webhooks are in flight when the disk fails; their results must be recorded afterwards.
    let receiver = Receiver::answering(|_| Answer::status(200).after(Duration::from_millis(200))).await;
    engine.endpoint("crm", &receiver.url("/"), &["*"]).await;
    // Writes fail as on a disk that the system has made read-only.
    let broken = Tampered::with(&engine, "pwrite64", "error=EROFS");
    let mut accepted = 0;
    let until = Instant::now() + DEADLINE;
    let refused = loop {
        let (status, answer) = engine.call("POST", "/v1/events", json!({ "type": "a.b" })).await;
        match status {
            202 => accepted += 1,
            _ => break (status, answer),
        }
        assert!(Instant::now() < until, "its writes do not fail; may strace trace it?");
    };
    assert_eq!((refused.0, &refused.1["code"]), (503, &json!("store_unavailable")), "{}", refused.1);
    engine.wait("/readyz", "/readyz reports it", |ready| ready["ready"] == false).await;
    let (status, _) = engine.call("GET", "/readyz", Value::Null).await;
    assert_eq!(status, 503);
    // Reads still work.
    engine.get("/v1/endpoints/crm").await;

    broken.end();
    engine.wait("/readyz", "the engine recovers automatically", |ready| ready["ready"] == true).await;
    engine.send("a.b", json!({})).await;
    accepted += 1;
    let ids =
        |all: &[Received]| all.iter().filter_map(|one| one.header("webhook-id").map(str::to_owned)).collect::<BTreeSet<_>>();
    receiver.wait_for("every accepted event is delivered", DEADLINE, |all| ids(all).len() >= accepted).await;
    for state in ["pending", "retrying"] {
        engine.wait(&format!("/v1/deliveries?state={state}"), "no delivery waits", |page| page["items"] == json!([])).await;
    }
    let mut events = 0;
    let mut cursor = String::new();
    loop {
        let page = engine.get(&format!("/v1/events?limit=200{cursor}")).await;
        events += page["items"].as_array().unwrap().len();
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!((ids(&receiver.received()).len(), events), (accepted, accepted), "no refused event exists");
}
