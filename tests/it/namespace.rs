//! Rights that a few tests need and an ordinary user lacks: to mount a small disk, to trace a running engine, to set a machine's
//! uptime. Such a test gets these rights in a separate user namespace. If such namespaces are restricted, only this test fails, and names
//! the command that helps.

use std::process::{Command, Output};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns the command that enters a user namespace, if this process needs one to `do_what`.
fn unshare(do_what: &str) -> Vec<&'static str> {
    if is_root() {
        return vec!["unshare"];
    }
    let tried = Command::new("unshare").args(["--map-root-user", "--mount", "true"]).output();
    assert!(
        tried.is_ok_and(|output| output.status.success()),
        "this test needs the right to {do_what}, and user namespaces are restricted here. Run the tests as root, or allow namespaces: \
         sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), sudo sysctl kernel.unprivileged_userns_clone=1 (Debian), \
         sudo sysctl user.max_user_namespaces=10000 (others)"
    );
    vec!["unshare", "--map-root-user"]
}

/// Returns whether the calling test may continue and mount or trace. If this returns `false`, the test has already run again, in a
/// namespace with these rights, and has passed there.
pub fn has_rights(test: &str, do_what: &str) -> bool {
    if is_root() {
        return true;
    }
    let program = std::env::current_exe().expect("this test's program has a path");
    let [unshare, arguments @ ..] = &unshare(do_what)[..] else { unreachable!("a program and its arguments") };
    let again = Command::new(unshare).args(arguments).arg("--mount").arg(program).args(["--exact", test, "--nocapture"]).output();
    let Output { status, stdout, stderr } = again.expect("unshare was found before");
    let text = [stdout, stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(status.success() && text.contains("1 passed"), "{test}, in a separate namespace:\n{text}");
    false
}

/// Returns the command that starts an engine on a machine with this many more seconds of uptime.
pub fn up_for_longer(seconds: &str) -> Vec<&str> {
    let mut wrapper = unshare("set the uptime of an engine");
    wrapper.extend(["--time", "--boottime", seconds, "--monotonic", seconds]);
    wrapper
}
