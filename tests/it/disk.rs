//! A disk that is full: nothing is accepted, nothing that was is lost, and the engine goes on by itself once there is space.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use crate::{
    engine::{DEADLINE, Engine},
    receivers::Receiver,
};

/// A small disk in memory, mounted for one test.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(folder: &'a Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"]).arg(folder).status();
        assert!(
            mounted.is_ok_and(|status| status.success()),
            "this test mounts a small disk and needs the right to: run the tests as root, or in: unshare --map-root-user --mount"
        );
        Self(folder)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // A lazy unmount succeeds whatever is still open.
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_loses_nothing_and_recovers() {
    let mut engine = Engine::start(&[]);
    engine.stop();
    let data = engine.data_folder();
    std::fs::remove_dir_all(&data).unwrap();
    let _disk = SmallDisk::mount(&data);
    engine.launch();
    let receiver = Receiver::start().await;
    engine.endpoint("crm", &receiver.url("/"), &["*"]).await;

    // Space is taken away until the store says so.
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
    engine.wait("/readyz", "it recovers by itself", |ready| ready["ready"] == true).await;
    engine.send("a.b", json!({})).await;
    receiver.wait_for_count(accepted + 1, DEADLINE).await;
}
