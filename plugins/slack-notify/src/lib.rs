//! Example of translating: GitHub's payloads become Slack messages.
//!
//! The optional setting `endpoint` (default `slack`) names the endpoint that has the address of the Slack webhook.

use innesco_sdk::prelude::*;

/// Maximum number of commits listed for a push.
const COMMITS_SHOWN: usize = 5;

// These types have only the members that this plugin reads. A member that GitHub may omit or set to null is an `Option`.

#[derive(Deserialize)]
struct Push {
    r#ref: String,
    #[serde(default)]
    created: bool,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    forced: bool,
    compare: Option<String>,
    commits: Option<Vec<Commit>>,
    repository: Repository,
    sender: Option<Sender>,
    pusher: Option<Pusher>,
}

#[derive(Deserialize)]
struct Commit {
    id: String,
    url: String,
    message: String,
}

#[derive(Deserialize)]
struct Issues {
    action: String,
    issue: Issue,
    repository: Repository,
    sender: Option<Sender>,
}

#[derive(Deserialize)]
struct Issue {
    number: u64,
    title: String,
    html_url: String,
}

#[derive(Deserialize)]
struct Repository {
    full_name: String,
}

#[derive(Deserialize)]
struct Sender {
    login: String,
}

#[derive(Deserialize)]
struct Pusher {
    name: String,
}

struct SlackNotify;

impl Plugin for SlackNotify {
    const ON: &'static [&'static str] = &["github.push", "github.issues"];

    fn handle(&self, event: &Event) -> Result<Outcome> {
        let text = match event.event_type.as_str() {
            "github.push" => push_text(&event.json()?),
            _ => issues_text(&event.json()?),
        };
        let endpoint = config::get("endpoint").unwrap_or("slack".to_owned());
        Ok(Webhook::to(endpoint).json(&json!({ "text": text }))?.into())
    }
}

innesco_sdk::export!(SlackNotify);

/// Returns `anna pushed branch main of acme/shop with 2 commits`, and the commits on the next lines.
fn push_text(push: &Push) -> String {
    let (kind, name) = match push.r#ref.strip_prefix("refs/tags/") {
        Some(tag) => ("tag", tag),
        None => ("branch", push.r#ref.strip_prefix("refs/heads/").unwrap_or(&push.r#ref)),
    };
    let who = push.sender.as_ref().map(|sender| &sender.login).or(push.pusher.as_ref().map(|pusher| &pusher.name));
    let who = escape(who.map_or("someone", String::as_str));
    let (name, repository) = (escape(name), escape(&push.repository.full_name));
    if push.deleted {
        return format!("{who} deleted {kind} {name} of {repository}");
    }

    let verb = match (push.created, push.forced) {
        (true, _) => "created",
        (_, true) => "force-pushed",
        _ => "pushed",
    };
    let name = link(push.compare.as_deref().unwrap_or_default(), &name);
    let commits = push.commits.as_deref().unwrap_or_default();
    let with = match commits.len() {
        0 => String::new(),
        1 => " with 1 commit".to_owned(),
        count => format!(" with {count} commits"),
    };
    let mut text = format!("{who} {verb} {kind} {name} of {repository}{with}");
    for commit in commits.iter().take(COMMITS_SHOWN) {
        let short = commit.id.get(..7).unwrap_or(&commit.id);
        let title = commit.message.lines().next().unwrap_or_default();
        text += &format!("\n• {} {}", link(&commit.url, &escape(short)), escape(title));
    }
    if commits.len() > COMMITS_SHOWN {
        text += &format!("\n… and {} more", commits.len() - COMMITS_SHOWN);
    }
    text
}

/// Returns `anna opened #12 Checkout is slow in acme/shop`.
fn issues_text(event: &Issues) -> String {
    let who = escape(event.sender.as_ref().map_or("someone", |sender| &sender.login));
    let issue = link(&event.issue.html_url, &format!("#{} {}", event.issue.number, escape(&event.issue.title)));
    format!("{who} {} {issue} in {}", escape(&event.action), escape(&event.repository.full_name))
}

/// Formats a link for Slack. The label is already escaped.
fn link(url: &str, label: &str) -> String {
    if url.is_empty() { label.to_owned() } else { format!("<{}|{label}>", escape(url)) }
}

/// Escapes the three special characters of Slack: otherwise a title such as `<!channel>` would notify everyone.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use innesco_sdk::testing;

    use super::*;

    fn text(event_type: &str, data: Value) -> String {
        let outcome = testing::run(&SlackNotify, &testing::event(event_type).source("github").json(data).build()).unwrap();
        assert_eq!(outcome.webhooks()[0].to.as_deref(), Some("slack"));
        outcome.webhooks()[0].json_body()["text"].as_str().unwrap().to_owned()
    }

    /// Returns a shortened push in GitHub's format, with changed members.
    fn pushed(changes: Value) -> Value {
        let commit = json!({
            "id": "0d1a26e67d8f5eaf1f6ba5c57fc3c7d91ac0fd1c", "tree_id": "f9d2a07e9488b91af2641b26b9407fe22a451433",
            "distinct": true, "message": "Fix <totals> & taxes\n\nCloses #12", "timestamp": "2026-05-05T19:40:15-04:00",
            "url": "https://github.com/acme/shop/commit/0d1a26e67d8f5eaf1f6ba5c57fc3c7d91ac0fd1c",
            "author": { "name": "Anna", "email": "anna@example.com", "username": "anna" },
            "added": [], "removed": [], "modified": ["README.md"]
        });
        let mut push = json!({
            "ref": "refs/heads/main", "before": "6113728f27ae82c7b1a177c8d03f9e96e0adf246", "after": commit["id"],
            "created": false, "deleted": false, "forced": false, "base_ref": null,
            "compare": "https://github.com/acme/shop/compare/6113728f27ae...0d1a26e67d8f",
            "commits": [commit], "head_commit": commit,
            "repository": { "id": 186853002, "name": "shop", "full_name": "acme/shop", "private": true },
            "pusher": { "name": "anna-git", "email": "anna@example.com" }, "sender": { "login": "anna", "id": 21031067 }
        });
        push.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        push
    }

    #[test]
    fn a_push_lists_its_commits_by_their_first_line() {
        assert_eq!(
            text("github.push", pushed(json!({}))),
            "anna pushed branch <https://github.com/acme/shop/compare/6113728f27ae...0d1a26e67d8f|main> of acme/shop with 1 commit\n\
             • <https://github.com/acme/shop/commit/0d1a26e67d8f5eaf1f6ba5c57fc3c7d91ac0fd1c|0d1a26e> Fix &lt;totals&gt; &amp; taxes"
        );
    }

    #[test]
    fn a_long_push_is_cut() {
        let commits: Vec<Value> = (0..7).map(|i| json!({ "id": "", "url": "", "message": format!("step {i}") })).collect();
        let text = text("github.push", pushed(json!({ "commits": commits })));
        assert!(text.contains("with 7 commits") && text.ends_with("step 4\n… and 2 more"), "{text}");
    }

    #[test]
    fn distinguishes_deleted_and_new_branches_and_tags() {
        let deleted = json!({ "deleted": true, "commits": [], "head_commit": null, "ref": "refs/heads/fix/a&b" });
        assert_eq!(text("github.push", pushed(deleted)), "anna deleted branch fix/a&amp;b of acme/shop");
        let tag = json!({ "created": true, "commits": [], "ref": "refs/tags/v1.0", "compare": "", "sender": null });
        assert_eq!(text("github.push", pushed(tag)), "anna-git created tag v1.0 of acme/shop");
        let forced = json!({ "forced": true, "commits": null, "compare": null, "sender": null, "pusher": null });
        assert_eq!(text("github.push", pushed(forced)), "someone force-pushed branch main of acme/shop");
    }

    #[test]
    fn an_issue_is_one_line_and_its_title_stays_inside_the_link() {
        let data = json!({
            "action": "opened",
            "issue": { "number": 12, "title": "<!channel> is > slow", "html_url": "https://github.com/acme/shop/issues/12", "body": null },
            "repository": { "full_name": "acme/shop" }, "sender": { "login": "anna" }
        });
        let expected = "anna opened <https://github.com/acme/shop/issues/12|#12 &lt;!channel&gt; is &gt; slow> in acme/shop";
        assert_eq!(text("github.issues", data), expected);
    }

    #[test]
    fn the_endpoint_is_a_setting() {
        let event = testing::event("github.push").json(pushed(json!({}))).build();
        let outcome = testing::engine().config("endpoint", "dev-chat").run(&SlackNotify, &event).unwrap();
        assert_eq!(outcome.webhooks()[0].to.as_deref(), Some("dev-chat"));
    }
}
