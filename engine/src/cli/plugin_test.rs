//! `innesco plugin test`: runs a plugin on one event without an engine, but under the limits of one.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{
    client::{Client, shown},
    event::{self, short},
    event_file,
    fixture::{self, Fixture},
    measure::{self, count},
    output::{self, DIM, Printer, Styled, indent},
    plugin::{changed, meant},
    project::Project,
    raw, wrong,
};
use crate::{
    domain::{
        content::Json,
        duration,
        endpoint::{Endpoint, EndpointState, NewEndpoint, Policy, Subscription},
        event::Event,
        id::{EndpointId, Tag},
        name::Slug,
        routing::EndpointTable,
        run::{Emitted, Requests, RunFailure, RunOutcome, StateWrite, StoredState, Webhook},
        setting,
        signature::Scheme,
        time::Timestamp,
    },
    sandbox::{Limits, NoCache, Plugin, Report, RunInput, Sandbox, Settings, StateSource},
    wire::{RunLimitsView, RunRecordView},
    work::refusal,
};

#[derive(clap::Args)]
pub struct TestArgs {
    /// A .wasm file, or a crate to build first (its folder, or its name below plugins/)
    plugin: PathBuf,
    /// File with one event as JSON, as it is sent or as `innesco event show --json` prints it; - is standard input
    #[arg(value_name = "EVENT_FILE", required_unless_present_any = ["recorded", "run"])]
    file: Option<PathBuf>,
    /// Use an event of an engine instead of a file: evt_…
    #[arg(long = "event", id = "recorded", value_name = "EVENT", conflicts_with = "file")]
    recorded: Option<String>,
    /// Run to repeat, with the event, settings and state that it read: a run of an engine (run_…), a file that `run show --as-test`
    /// wrote, or - for standard input
    #[arg(long, value_name = "RUN", conflicts_with_all = ["file", "recorded"])]
    run: Option<String>,
    /// Setting that the plugin reads; can be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    config: Vec<String>,
    /// State that the plugin reads; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    state: Vec<String>,
    /// Run the plugin as the plugin of an endpoint, so that its webhooks name no endpoint
    #[arg(long)]
    bound: bool,
}

/// # Errors
/// If the plugin or the event cannot be read, or if the run did not end `ok`.
pub fn run(args: &TestArgs, client: impl FnOnce() -> anyhow::Result<Client>, out: &Printer) -> anyhow::Result<()> {
    // Inputs that need no build are read first, so that mistakes in them are reported at once.
    let (config, state) = (changed(BTreeMap::new(), &args.config, &[])?, state(&args.state)?);
    let (mut given, recorded, limits) = given(args, client)?;
    given.config.extend(config);
    given.state.extend(state);
    let stage = Stage::load(&args.plugin, limits)?;
    let mut notes = notes(&stage.plugin, &given);
    let report = stage.run(&given)?;
    let trial = Trial { plugin: &stage.plugin, event: &given.event, report: &report };
    notes.extend(
        recorded.iter().flat_map(|recorded| recorded.notes(&stage.plugin.digest().to_string(), trial.outcome().as_str())),
    );
    out.thing(&trial.json(), |_| trial.page())?;
    for note in notes {
        output::tell!("note: {note}");
    }
    match &report.result {
        Ok(_) => Ok(()),
        Err(failure) => bail!("the run ended {}", failure.outcome),
    }
}

/// A loaded plugin with the limits of a run.
pub struct Stage {
    plugin: Plugin,
    settings: Settings,
}

impl Stage {
    /// Loads a plugin from a file, or from a crate, which is built first.
    ///
    /// # Errors
    /// If the crate does not build, or if the file is not a plugin.
    pub fn load(typed: &Path, limits: Limits) -> anyhow::Result<Self> {
        let (name, bytes) = file(typed)?;
        let mut settings = Settings { threads: 1, limits, ..Settings::default() };
        // A file of any size is accepted, because the maximum size is a setting of an engine.
        settings.plugin_bytes_max = settings.plugin_bytes_max.max(bytes.len());
        let sandbox = Sandbox::new(settings.clone())?;
        let plugin = sandbox.load(&bytes, &NoCache).map_err(|error| anyhow::anyhow!("{name} is not loaded: {error}"))?;
        Ok(Self { plugin, settings })
    }

    /// Runs the plugin once. Checks the webhooks and events that it requests, as an engine would.
    ///
    /// # Errors
    /// If the run cannot be made. A failure of the plugin is no error: it is in the report.
    pub fn run(&self, given: &Given) -> anyhow::Result<Report> {
        let Given { event, config, state, bound, endpoints, at } = given;
        let config = Arc::new(setting::effective(&self.plugin.manifest().settings, config));
        let (tag, limits) = (Tag::from_random([0; 4]), &self.settings.limits);
        let input = RunInput { event, tag, config: &config, revision: 0, limits, bound: *bound, now: *at };
        let mut report = self.plugin.run(input, Box::new(GivenState(state.clone())))?;
        let refused = report.result.as_ref().ok().and_then(|requests| {
            let asked = requests.webhooks.iter().filter_map(|webhook| webhook.to.as_deref());
            // Without a list of existing endpoints, every name counts as existing.
            let names: Vec<&str> =
                endpoints.as_ref().map_or_else(|| asked.collect(), |names| names.iter().map(String::as_str).collect());
            let table = EndpointTable::new(names.into_iter().filter_map(endpoint));
            let own = bound.then(|| endpoint("its-endpoint")).flatten();
            refusal(requests, &self.plugin.manifest().name, event, own.as_ref(), &table)
        });
        if let Some(failure) = refused {
            report.result = Err(failure);
            report.state.writes.clear();
        }
        Ok(report)
    }
}

/// Returns a stand-in for an endpoint. Nothing is sent to it.
fn endpoint(name: &str) -> Option<Endpoint> {
    let new = NewEndpoint {
        name: Slug::parse(name).ok()?,
        title: None,
        url: String::new(),
        subscription: Subscription::default(),
        plugin: None,
        scheme: Scheme::default(),
        secrets: Vec::new(),
        policy: Policy::default(),
        state: EndpointState::Active,
    };
    // The id only has to be unique, so it is derived from the name.
    let id = name.bytes().fold(7_i64, |id, byte| id.wrapping_mul(31).wrapping_add(byte.into()));
    Some(Endpoint { id: EndpointId::from_i64(id), created_at: Timestamp::from_millis(0), failing_since: None, new })
}

/// Returns the name of a plugin's file for messages, and its bytes.
fn file(typed: &Path) -> anyhow::Result<(String, Vec<u8>)> {
    let here = std::env::current_dir().context("the current folder cannot be read")?;
    let is_file = typed.extension().is_some_and(|extension| extension == "wasm") || here.join(typed).is_file();
    let path = match is_file {
        true => typed.to_owned(),
        false => {
            let crates = meant(Some(typed), &Project::around(&here), &here)?;
            let [plugin] = &crates[..] else { bail!("{} is not one crate", typed.display()) };
            plugin.build()?.wasm
        }
    };
    let bytes = fs::read(&path).with_context(|| format!("{} cannot be read", shown(&path)))?;
    Ok((shown(&path), bytes))
}

/// The inputs of a run.
#[derive(Clone)]
pub struct Given {
    pub event: Event,
    pub config: BTreeMap<String, String>,
    pub state: HashMap<String, Vec<u8>>,
    pub bound: bool,
    /// Names of the endpoints that exist; `None` if every name counts as existing.
    pub endpoints: Option<Vec<String>>,
    /// When the run begins. It decides which values of state have expired.
    pub at: Timestamp,
}

/// The recorded run that is repeated.
struct Recorded {
    version: Option<String>,
    outcome: Option<String>,
}

impl Recorded {
    /// Returns how the recorded run differs from a run of this version with this outcome.
    fn notes(&self, version: &str, outcome: &str) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(recorded) = self.version.as_deref().filter(|recorded| *recorded != version) {
            notes.push(format!("the recorded run used version {}, this is {}", short(recorded), short(version)));
        }
        if let Some(recorded) = self.outcome.as_deref().filter(|recorded| *recorded != outcome) {
            notes.push(format!("the recorded run ended {}, this one {outcome}", measure::one_line(recorded)));
        }
        notes
    }
}

/// Returns the inputs of the run, without the settings and state of the command line. Also returns its limits: those of the
/// engine that is called, or the default ones.
fn given(args: &TestArgs, client: impl FnOnce() -> anyhow::Result<Client>) -> anyhow::Result<(Given, Option<Recorded>, Limits)> {
    let Some(run) = &args.run else {
        let (event, limits) = event(args, client)?;
        let at = event.accepted_at;
        let given = Given { event, config: BTreeMap::new(), state: HashMap::new(), bound: args.bound, endpoints: None, at };
        return Ok((given, None, limits));
    };
    let path = Path::new(run);
    let fixture = if run == "-" || path.is_file() || run.ends_with(".json") {
        let (bytes, from) = input(path)?;
        Fixture::read(&bytes).with_context(|| format!("{from} is no recorded run"))?
    } else {
        Fixture::new(client()?.get::<RunRecordView>(&["v1", "runs", run, "record"])?.into_thing())?
    };
    let recorded = Recorded { version: fixture.version.clone(), outcome: fixture.outcome.clone() };
    let limits = fixture.limits();
    let mut given = fixture.given()?;
    given.bound |= args.bound;
    Ok((given, Some(recorded), limits))
}

/// Returns the event on which the plugin runs, and the limits of the run.
fn event(args: &TestArgs, client: impl FnOnce() -> anyhow::Result<Client>) -> anyhow::Result<(Event, Limits)> {
    if let Some(id) = &args.recorded {
        let client = client()?;
        let text = client.get_text(&["v1", "events", id])?;
        let event =
            event_file::read(text.into_bytes()).with_context(|| format!("event {} cannot be run", measure::one_line(id)))?;
        let limits = client.get::<RunLimitsView>(&["v1", "limits"])?;
        return Ok((event, fixture::limits(&limits)));
    }
    let (bytes, from) = input(args.file.as_deref().unwrap_or(Path::new("-")))?;
    let event = event_file::read(bytes).with_context(|| {
        format!("{from} is no event; write one such as {{\"type\": \"order.created\", \"data\": {{\"id\": 7}}}}")
    })?;
    Ok((event, Limits::default()))
}

/// Reads a file, or standard input for `-`. Returns its bytes, and what to call it.
fn input(path: &Path) -> anyhow::Result<(Vec<u8>, String)> {
    if path == Path::new("-") {
        if io::stdin().is_terminal() {
            output::tell!("reading from standard input; end with Ctrl-D");
        }
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).context("standard input cannot be read")?;
        return Ok((bytes, "standard input".to_owned()));
    }
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok((bytes, path.display().to_string()))
}

/// State that does not change.
struct GivenState(HashMap<String, Vec<u8>>);

impl StateSource for GivenState {
    fn get(&mut self, key: &str) -> Result<Option<StoredState>, anyhow::Error> {
        Ok(self.0.get(key).map(|value| StoredState { value: value.clone(), version: 1, expires_at: None }))
    }
}

fn state(pairs: &[String]) -> anyhow::Result<HashMap<String, Vec<u8>>> {
    let read = |pair: &String| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.as_bytes().to_vec())),
        _ => Err(wrong(format!("{pair:?} is no state; write KEY=VALUE, such as count=7"))),
    };
    pairs.iter().map(read).collect()
}

/// Returns the differences between a run in an engine and this run.
fn notes(plugin: &Plugin, Given { event, config, bound, .. }: &Given) -> Vec<String> {
    let manifest = plugin.manifest();
    let mut notes: Vec<String> = setting::misfits(&manifest.settings, config).into_iter().map(|misfit| misfit.detail).collect();
    let event_type = &event.new.event_type;
    if !*bound && !manifest.on.iter().any(|pattern| pattern.matches(event_type)) {
        let on: Vec<String> = manifest.on.iter().map(ToString::to_string).collect();
        notes.push(format!("an engine does not run it on {event_type}: it subscribes to {}", output::texts(&on)));
    }
    notes
}

/// A run with its inputs.
struct Trial<'a> {
    plugin: &'a Plugin,
    event: &'a Event,
    report: &'a Report,
}

impl Trial<'_> {
    fn outcome(&self) -> RunOutcome {
        self.report.result.as_ref().map_or_else(|failure| failure.outcome, |_| RunOutcome::Ok)
    }

    fn json(&self) -> Value {
        let Report { result, log, took, memory_peak, backtrace, state, recording: _ } = self.report;
        let failure = result.as_ref().err();
        let nothing = Requests::default();
        let requests = result.as_ref().unwrap_or(&nothing);
        json!({
            "plugin": self.plugin.manifest().name.to_string(),
            "version": self.plugin.digest().to_string(),
            "type": self.event.new.event_type.to_string(),
            "outcome": self.outcome().as_str(),
            "code": failure.map(|failure| &failure.code),
            "message": failure.map(|failure| &failure.message),
            "retryable": failure.is_some_and(|failure| failure.retryable),
            "backtrace": &backtrace[..],
            "duration_ms": took.as_secs_f64() * 1_000.0,
            "memory_bytes": memory_peak,
            "webhooks": requests.webhooks.iter().map(webhook_json).collect::<Vec<_>>(),
            "events": requests.emitted.iter().map(emitted_json).collect::<Vec<_>>(),
            "state": {
                "reads": state.reads.iter().map(|read| &read.key).collect::<Vec<_>>(),
                "writes": state.writes.iter().map(write_json).collect::<Vec<_>>(),
            },
            "log": log.lines.iter().map(|line| json!({ "level": line.level.as_str(), "message": line.message, "fields": line.fields.iter().cloned().collect::<BTreeMap<_, _>>() })).collect::<Vec<_>>(),
            "log_dropped": log.dropped,
        })
    }

    fn page(&self) -> String {
        let Report { result, log, took, memory_peak, backtrace, state, recording: _ } = self.report;
        let mut lines = vec![format!(
            "run       {}@{}  {}  {}  {}",
            self.plugin.manifest().name,
            short(&self.plugin.digest().to_string()),
            output::state(self.outcome().as_str()),
            measure::took(*took),
            measure::size(*memory_peak),
        )];
        match result {
            Ok(requests) => {
                let asked = event::asked(requests.webhooks.len() as u64, requests.emitted.len() as u64);
                lines[0].push_str(&format!("  {asked}"));
                requests.webhooks.iter().for_each(|webhook| lines.push(webhook_text(webhook)));
                requests.emitted.iter().for_each(|emitted| lines.push(emitted_text(emitted)));
            }
            Err(RunFailure { outcome, code, message, retryable }) => {
                let code = if *outcome == RunOutcome::Failed { format!("{code}: ") } else { String::new() };
                lines.push(indent(&measure::lines(&format!("{code}{message}"))));
                lines.extend(backtrace.iter().map(|line| format!("          at {}", measure::one_line(line))));
                if *retryable {
                    lines.push(indent("an engine tries it again automatically"));
                }
            }
        }
        lines.extend(state.writes.iter().map(write_text));
        for line in &log.lines {
            let message = indent(&measure::lines(&line.message));
            let facts =
                line.fields.iter().map(|(name, value)| format!("  {}={}", measure::one_line(name), measure::one_line(value)));
            let facts = Styled(DIM, facts.collect::<String>());
            lines.push(format!(
                "log       {} {}{facts}",
                Styled(DIM, format!("{:<5}", line.level.as_str())),
                message.trim_start()
            ));
        }
        if log.dropped > 0 {
            lines.push(format!("          {}", Styled(DIM, format!("… {} dropped", count(log.dropped, "more line")))));
        }
        lines.join("\n")
    }
}

fn webhook_json(Webhook { to, payload }: &Webhook) -> Value {
    let mut json = json!({
        "to": to,
        "type": payload.event_type.as_ref().map(ToString::to_string),
        "content_type": payload.content_type,
        "headers": payload.headers,
    });
    put_body(&mut json, "body", &payload.body);
    json
}

fn emitted_json(Emitted { after, event_type, subject, content, attributes }: &Emitted) -> Value {
    let mut json = json!({
        "type": event_type.to_string(),
        "subject": subject,
        "after_ms": (!after.is_zero()).then(|| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        "content_type": &**content.content_type(),
        "attributes": attributes.0.iter().cloned().collect::<BTreeMap<_, _>>(),
    });
    put_body(&mut json, "data", content.bytes());
    json
}

fn write_json(StateWrite { key, value, expires_at }: &StateWrite) -> Value {
    let mut json = json!({ "key": key, "expires_at": expires_at.map(|at| at.to_string()) });
    match value {
        Some(value) => put_body(&mut json, "value", value),
        None => json["value"] = Value::Null,
    }
    json
}

/// Adds bytes to an object: as text if they are UTF-8, otherwise in base64.
fn put_body(json: &mut Value, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => json[name] = text.into(),
        Err(_) => json[format!("{name}_base64")] = BASE64_STANDARD.encode(bytes).into(),
    }
}

fn webhook_text(Webhook { to, payload }: &Webhook) -> String {
    let mut head = format!("webhook   → {}", to.as_deref().map_or("its endpoint".to_owned(), measure::one_line));
    if let Some(event_type) = &payload.event_type {
        head.push_str(&format!("  {event_type}"));
    }
    head.push_str(&format!("  {}", measure::one_line(&payload.content_type)));
    let headers = payload.headers.iter().map(|(name, value)| format!("\n          {name}: {}", measure::one_line(value)));
    format!("{head}{}\n{}", headers.collect::<String>(), body_text(&payload.body))
}

fn emitted_text(Emitted { after, event_type, subject, content, .. }: &Emitted) -> String {
    let subject = subject.as_ref().map(|subject| format!("  {}", measure::one_line(subject))).unwrap_or_default();
    let after = if after.is_zero() { String::new() } else { format!("  after {}", duration::write(*after)) };
    format!("event     {event_type}{subject}{after}\n{}", body_text(content.bytes()))
}

fn write_text(StateWrite { key, value, expires_at }: &StateWrite) -> String {
    let until = expires_at.map(|at| format!("  until {at}")).unwrap_or_default();
    let key = measure::one_line(key);
    match value {
        None => format!("state     {key} deleted"),
        Some(value) => match std::str::from_utf8(value) {
            Ok(text) => format!("state     {key} = {}{until}", measure::cut(&measure::one_line(text), 100)),
            Err(_) => format!("state     {key} = {}{until}", measure::size(value.len() as u64)),
        },
    }
}

/// Formats a body: JSON with line breaks, other text as it is.
fn body_text(bytes: &[u8]) -> String {
    let text = match std::str::from_utf8(bytes) {
        Ok("") => return indent("(empty)"),
        Ok(text) if Json::check(text).is_ok() => raw::pretty(text),
        Ok(text) => text.to_owned(),
        Err(_) => return indent(&measure::size(bytes.len() as u64)),
    };
    indent(&measure::lines(&text))
}
