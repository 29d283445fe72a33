//! Uploading a version. The version becomes a candidate, or serves at once if the person chose so. The reason for a refusal is
//! shown beside the form.

use std::{sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{Method, Uri, header},
    response::{IntoResponse as _, Redirect, Response},
};
use bytes::Bytes;
use maud::{Markup, html};
use memchr::memmem;

use super::{path_of, route_of, short};
use crate::{
    api::{Problem, body},
    domain::plugin::VersionState,
    ui::{
        Ui, foreign,
        form::{Fields, TOKEN_FIELD},
        layout::{self, Head, Page, Place},
        parts::{self, Field, Look, icon, shape, state::State as Shown, with_query},
        visit::Visit,
    },
    wire::{PluginVersionView, PluginView},
};

/// Maximum size of the fields and the boundaries around a file, in bytes.
const AROUND_BYTES_MAX: usize = 64 << 10;

/// The initial values of a form.
#[derive(Clone, Copy, Default)]
pub struct Given<'a> {
    pub name: &'a str,
    /// Whether the plugin exists, so that the form does not ask for its name.
    pub is_fixed: bool,
    pub serve: bool,
}

/// Writes the form of an upload, with the reason why the last file was refused. The name must match the one in the file.
pub fn form(visit: &Visit, given: &Given<'_>, refused: Option<&str>) -> Markup {
    let t = &visit.texts().plugins;
    let name = Field { name: "name", label: t.plugin, hint: Some(html! { (t.name_hint) }), error: None };
    html! {
        form.drop #upload-form method="post" action="/plugins/upload" enctype="multipart/form-data" data-whole {
            input type="hidden" name=(TOKEN_FIELD) value=(visit.token());
            @if given.is_fixed { input type="hidden" name="fixed" value="on"; input type="hidden" name="name" value=(given.name); }
            div.field data-bad=[refused.map(|_| "")] {
                label for="f-file" { (if given.is_fixed { t.file_of_version } else { t.file_of_plugin }) }
                input #f-file type="file" name="file" accept=".wasm,application/wasm" required aria-describedby="f-file-note" aria-invalid=[refused.map(|_| "true")];
                @match refused {
                    Some(why) => p #f-file-note.error role="alert" { (shape("s-fail")) span.words.lines { (foreign::code(why)) } },
                    None => p #f-file-note.hint { (if given.is_fixed { t.upload_says_version } else { t.upload_says }) },
                }
            }
            @if !given.is_fixed { (name.text(given.name, "order-router")) }
            div.row {
                button.btn type="submit" { (icon("upload")) (t.upload) }
                label.tick { input type="checkbox" name="serve" value="on" checked[given.serve]; (t.serve_at_once) }
            }
        }
    }
}

/// Shows a page with only the form.
pub async fn show(State(ui): State<Arc<Ui>>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
    visit.sight("PUT /v1/plugins/{plugin}")?;
    let fields = Fields::parse(uri.query().unwrap_or_default().as_bytes());
    let name = fields.get("plugin").unwrap_or_default();
    Ok(page(&ui, &visit, &Given { name, is_fixed: !name.is_empty(), serve: false }, None).await)
}

async fn page(ui: &Ui, visit: &Visit, given: &Given<'_>, refused: Option<&str>) -> Response {
    let texts = visit.texts();
    let t = &texts.plugins;
    let last =
        html! { @if given.is_fixed { a.mono href=(path_of(given.name)) { (foreign::name(given.name)) } " / " } (t.upload) };
    let title = if given.is_fixed { t.upload_version } else { t.upload_plugin };
    let body = html! {
        (Head { above: Some(("/plugins", texts.frame.plugins, last)), ..layout::title(title) }.show())
        div #upload-page.ask { (form(visit, given, refused)) }
    };
    layout::page(ui, visit, &Page::new(Place::Plugins, title, body)).await
}

/// Stores the file of a form. The role is checked before the file is read.
pub async fn upload(State(ui): State<Arc<Ui>>, visit: Visit, request: Request) -> Result<Response, Problem> {
    visit.sight("PUT /v1/plugins/{plugin}")?;
    let (head, body) = request.into_parts();
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let most = ui.api.catalog.plugin_bytes_max() + AROUND_BYTES_MAX;
    let (body, held) = body::read_up_to(&ui.api, &head.headers, body, most).await?;
    let parts =
        split(content_type, &body).ok_or_else(|| Problem::bad_request("the form cannot be read; choose the file again"))?;
    let field = |name: &str| parts.iter().find(|(known, _)| known == name).map(|(_, content)| content);
    let text = |name: &str| field(name).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default().trim();
    if !visit.is_token(text(TOKEN_FIELD)) {
        return Err(Problem::forbidden(
            "the form is from another session, so nothing was done; open the page again and repeat it",
        ));
    }
    let given = Given { name: text("name"), is_fixed: !text("fixed").is_empty(), serve: !text("serve").is_empty() };
    let file = field("file").cloned().unwrap_or_default();
    let query = if given.serve { "" } else { "?candidate=true" };
    // Releases the memory that is reserved for this request, because the API reserves the same amount for the file again.
    drop(held);
    let began = Instant::now();
    let path = format!("{}{query}", route_of(given.name));
    match ui.act_with(&visit, Method::PUT, &path, "application/wasm", Body::from(file)).await {
        Ok(made) => {
            let version = made["version"].as_str().unwrap_or_default();
            let to = with_query(&path_of(given.name), "new", Some(version));
            let took = began.elapsed().as_millis().to_string();
            Ok(Redirect::to(&with_query(&to, "took", Some(&took))).into_response())
        }
        Err(problem) if !problem.is_ours() && problem.code() != "forbidden" => {
            Ok(page(&ui, &visit, &given, Some(problem.detail())).await)
        }
        Err(problem) => Err(problem),
    }
}

/// Writes what an upload stored: its size, how long it took to load, and what differs in its manifest from the version that
/// serves.
pub fn stored(visit: &Visit, plugin: &PluginView, all: &[PluginVersionView], new: &PluginVersionView, fields: &Fields) -> Markup {
    let (texts, formats) = (visit.texts(), visit.formats());
    let t = &texts.plugins;
    let serving = all.iter().find(|one| one.state == VersionState::Serving.as_str() && one.version != new.version);
    let took = fields.get("took").and_then(|took| took.parse::<u32>().ok()).unwrap_or_default();
    let changes = |serving: &PluginVersionView| {
        let pairs = [
            (t.on, serving.on.join(", "), new.on.join(", ")),
            (t.its_version, serving.author_version.clone(), new.author_version.clone()),
            (t.description, serving.description.clone(), new.description.clone()),
        ];
        pairs.into_iter().filter(|(_, was, is)| was != is).collect::<Vec<_>>()
    };
    let words = html! {
        b.mono { (short(&new.version)) } " "
        ((t.uploaded)(&formats.bytes(new.bytes), &formats.millis(f64::from(took)))) " "
        (if new.state == VersionState::Serving.as_str() { t.serves_now } else { t.is_candidate })
        @if let Some(serving) = serving {
            @let changes = changes(serving);
            @if changes.is_empty() { " " (t.same_manifest) }
            @for (what, was, is) in changes {
                div.small { (what) ": " @if was.is_empty() { "–" } @else { (foreign::value(&was)) } " → " @if is.is_empty() { "–" } @else { (foreign::value(&is)) } }
            }
        }
    };
    parts::note(Shown::ok(""), &words, &parts::link_button(&path_of(&plugin.name), None, texts.frame.close, Look::Quiet))
}
/// Splits a form with a file (RFC 7578). Returns name and content of each part, or `None` if the form is cut short.
fn split(content_type: &str, body: &Bytes) -> Option<Vec<(String, Bytes)>> {
    let boundary = content_type.split("boundary=").nth(1)?.split(';').next()?.trim().trim_matches('"');
    let delimiter = format!("--{boundary}");
    if boundary.is_empty() || !body.starts_with(delimiter.as_bytes()) {
        return None;
    }
    let mut parts = Vec::new();
    let mut at = delimiter.len();
    let between = memmem::Finder::new(format!("\r\n{delimiter}").as_bytes()).into_owned();
    while !body[at..].starts_with(b"--") {
        let head = memmem::find(&body[at..], b"\r\n\r\n")?;
        let headers = std::str::from_utf8(&body[at..at + head]).ok()?;
        let name = headers.split("name=\"").nth(1)?.split('"').next()?;
        let from = at + head + 4;
        let length = between.find(&body[from..])?;
        parts.push((name.to_owned(), body.slice(from..from + length)));
        at = from + length + 2 + delimiter.len();
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_the_file_are_read_byte_for_byte() {
        let file = b"\0asm\r\n\r\n--b\r\n--\xff";
        let mut body = b"--bb\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\nabc\r\n--bb\r\n".to_vec();
        body.extend(
            b"Content-Disposition: form-data; name=\"file\"; filename=\"x.wasm\"\r\nContent-Type: application/wasm\r\n\r\n",
        );
        body.extend(file);
        body.extend(b"\r\n--bb--\r\n");
        let parts = split("multipart/form-data; boundary=bb", &Bytes::from(body.clone())).unwrap();
        assert_eq!(parts, [("token".to_owned(), Bytes::from_static(b"abc")), ("file".to_owned(), Bytes::from_static(file))]);
        for end in 0..body.len() - 4 {
            assert_eq!(split("multipart/form-data; boundary=bb", &Bytes::copy_from_slice(&body[..end])), None, "cut after {end}");
        }
        assert_eq!(split("text/plain", &Bytes::from(body)), None);
    }
}
