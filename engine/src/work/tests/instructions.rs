//! Counts the processor instructions of hot paths, and compares them with recorded numbers. So a change that makes a path slower is
//! noticed, even if the machine is busy. Times are never compared.
//!
//! valgrind counts the instructions of this test program, started again as a child. The child repeats one path. The difference
//! between many and few repeats is divided by the number of additional repeats, so what happens once does not count. valgrind
//! simulates the same processor everywhere, but the numbers depend on the compiler and on the profile. If another compiler is
//! the reason for a difference, record the numbers that the test prints.

use std::{env, process::Command};

use super::*;
use crate::{
    domain::{content::Content, endpoint::Endpoint, event::Event, id::Tag, routing::EndpointTable},
    outbound::Webhook,
};

/// Paths and their recorded instructions, as rustc 1.95 compiles them in the profile of `make test`.
const RECORDED: [(&str, u64); 4] = [
    ("an event, from acceptance to its recorded attempt", 355_000),
    ("a signed request for an event of 1 KB", 92_000),
    ("the subscribers of an event among 1,000 endpoints", 1_550),
    ("the check of 1 KB of JSON", 38_460),
];
/// Allowed difference from the recorded number, in percent.
const TOLERANCE: u64 = 10;
/// The variable that makes this program the child: the number of the path and the number of repeats.
const REPEATS: &str = "INNESCO_COUNTED_REPEATS";
/// Another profile compiles to other instructions, so its numbers are only printed.
const IS_RECORDED_PROFILE: bool = option_env!("CARGO_PROFILE_DEV_OPT_LEVEL").is_none();

/// Returns the instructions of a child that repeats a path.
fn counted(path: usize, repeats: u64) -> u64 {
    // rustix asks the kernel for the address of the vDSO, which valgrind hides from the program. If this system call fails, rustix
    // reads the file in /proc, where valgrind hides it too.
    let mut command = Command::new("strace");
    command.args(["-f", "--seccomp-bpf", "-qq", "-e", "trace=prctl", "-e", "inject=prctl:error=EINVAL", "-o", "/dev/null"]);
    command.args(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(env::current_exe().unwrap());
    command.args(["--exact", "work::tests::instructions::as_a_child", "--ignored", "--test-threads=1"]);
    command.env(REPEATS, format!("{path} {repeats}")).env("RUST_BACKTRACE", "0");
    let output = command.output().expect("this test counts instructions; install the tools: apt-get install strace valgrind");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    let line = said.lines().find_map(|line| line.rsplit_once("Collected : ")).unwrap_or_else(|| panic!("no count: {said}"));
    line.1.trim().parse().unwrap()
}

#[test]
fn hot_paths_execute_about_the_recorded_instructions() {
    let mut wrong = Vec::new();
    for (path, (name, recorded)) in RECORDED.into_iter().enumerate() {
        let (few, many) = (20, 220);
        let now = counted(path, many).saturating_sub(counted(path, few)) / (many - few);
        println!("{name}: {now} instructions, recorded {recorded}");
        if now.abs_diff(recorded) * 100 > recorded * TOLERANCE {
            wrong.push(format!("{name}: {now} instructions, recorded {recorded}"));
        }
    }
    assert!(wrong.is_empty() || !IS_RECORDED_PROFILE, "{wrong:#?}");
}

#[tokio::test]
#[ignore = "a child that the test above starts"]
async fn as_a_child() {
    let given = env::var(REPEATS).expect("the test above sets it");
    let (path, repeats) = given.split_once(' ').unwrap();
    let repeats = 0..repeats.parse::<u64>().unwrap();
    match path {
        "0" => {
            let mut workers = Workers::new().await;
            workers.endpoint("crm", Policy::default()).await;
            for _ in repeats {
                workers.submit(vec![order()], 0).await;
                assert_eq!(workers.send().await.0, [Done::Attempted(Next::Delivered)]);
            }
        }
        "1" => {
            let event = Event { id: EventId::from_i64(7), accepted_at: clock::wall(), new: order() };
            let (endpoint, tag) = (existing(1), Tag::from_random([1, 2, 3, 4]));
            let webhook = Webhook { endpoint: &endpoint, event: &event, payload: None, id: "evt_1", event_id: "evt_1", tag };
            for _ in repeats {
                assert!(webhook.request(event.accepted_at, event.accepted_at).unwrap().body.len() > 1_000);
            }
        }
        "2" => {
            let (table, event) = (EndpointTable::new((1..=1_000).map(existing)), order());
            for _ in repeats {
                assert_eq!(table.subscribers(&event).count(), 1);
            }
        }
        "3" => {
            for _ in repeats {
                assert!(Content::new("application/json", data().into()).is_ok());
            }
        }
        other => panic!("there is no path {other}"),
    }
}

/// Returns the data of an event: about 1 KB of JSON.
fn data() -> String {
    let item = r#"{"sku":"SKU-4711","title":"A mug, blue","quantity":2,"price":12.5,"options":["gift","\u00e9t\u00e9"]}"#;
    format!(r#"{{"id":1001,"customer":"c-42","items":[{}],"total":175.0}}"#, [item; 9].join(","))
}

fn order() -> NewEvent {
    NewEvent { content: Content::new("application/json", data().into()).unwrap(), ..event("order.created") }
}

/// Returns an endpoint of a table. Only the first one subscribes to the type of [`order`].
fn existing(id: i64) -> Endpoint {
    let pattern = if id == 1 { "order.*".to_owned() } else { format!("type{}.*", id % 100) };
    let events = vec![Pattern::parse(&pattern).unwrap()];
    let new = NewEndpoint { subscription: Subscription { events, conditions: Vec::new() }, ..endpoint(&format!("e{id}")) };
    Endpoint { id: EndpointId::from_i64(id), created_at: clock::wall(), failing_since: None, new }
}
