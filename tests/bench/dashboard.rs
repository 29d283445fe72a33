//! The dashboard over a full store: the time and the size of each page, and what open pages cost the engine.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use reqwest::header;
use tokio::task::{JoinHandle, JoinSet};

use super::{
    Place,
    engine::{Engine, KEY},
    figures::{Cell, Figure, Table},
    load::{Ledger, sink},
    stored::{DELIVERIES, MEASURED, measure, stored},
};

/// Number of stored events.
const EVENTS: i64 = 200_000;
/// Number of requests for each page.
const REQUESTS: usize = 200;
/// Number of measurements with and without open pages. A measurement is short, so its result varies by more than the goal.
const ROUNDS: usize = 11;
/// Pages that are open at the same time.
const OPEN: usize = 10;

pub async fn run(place: &Place) -> anyhow::Result<()> {
    let ledger = Ledger::new(2 * ROUNDS * MEASURED + 1);
    let folder = stored(place, EVENTS, &ledger, &sink(&ledger).await?).await?;

    let engine = Engine::start(folder.path(), &[])?;
    let reader = Reader::sign_in(&engine.server.url).await?;
    let event = engine.newest_event().await?;
    let mut table = Table::new(&["page", "CPU ms", "median ms", "p99 ms", "HTML kB"]);
    let (mut slowest, mut largest) = ([Figure::default(), Figure::default()], Figure::default());
    for page in pages(&event) {
        let PageTimes { cpu, median, p99, kb } = PageTimes::of(&engine, &reader, &page).await?;
        table.row(std::iter::once(page.into()).chain([cpu, median, p99, kb].map(Cell::from)));
        slowest[0].note(median);
        slowest[1].note(p99);
        largest.note(kb);
    }
    let highest = [&slowest[0], &slowest[1], &largest].map(|figure| Cell::from(figure.highest()));
    let [median, p99, kb] = highest;
    table.row(["highest".into(), "".into(), median, p99, kb]);
    table.row(["goal".into(), "".into(), "≤ 50".into(), "≤ 250".into(), "≤ 90".into()]);
    table.print(&format!("Dashboard: {} stored deliveries, {REQUESTS} requests of each page", EVENTS * DELIVERIES));

    let [mut alone, mut beside]: [[Figure; 2]; 2] = Default::default();
    let mut fetched = 0;
    for _ in 0..ROUNDS {
        measure(&engine, &ledger, &mut alone).await;
        let watchers = Watchers::open(&reader, &event).await?;
        measure(&engine, &ledger, &mut beside).await;
        fetched += watchers.close().await?;
    }
    let mut table = Table::new(&["64 callers, one plugin", "delivered/s", "CPU µs/event"]);
    for (name, [rate, cpu]) in [("no page open", &alone), ("ten pages open", &beside)] {
        table.row([name.into(), rate.into(), cpu.into()]);
    }
    table.row(["ratio".into(), beside[0].against(&alone[0]).into(), beside[1].against(&alone[1]).into()]);
    table.row(["goal", "≥ 0.95", ""].map(Cell::from));
    table.print("Dashboard: what open pages cost");
    println!("  The open pages were fetched {fetched} times.\n");
    Ok(())
}

/// Returns every kind of page, with the filters for which a store could be slow.
fn pages(event: &str) -> Vec<String> {
    let mut pages: Vec<String> = [
        "/",
        "/?last=hour",
        "/?last=week",
        "/events",
        "/events?type=order.*",
        "/events?type=sample.7",
        "/events?source=shop",
        "/events?source=unknown",
        "/events?state=failed",
        "/events?state=retrying",
        "/events?state=nothing-sent",
        "/events?time=week",
        "/deliveries",
        "/deliveries?state=dead",
        "/deliveries?state=retrying",
        "/deliveries?state=pending",
        "/deliveries?state=cancelled",
        "/deliveries?endpoint=crm",
        "/deliveries?endpoint=crm&state=dead",
        "/deliveries?endpoint=receiver&state=dead",
        "/deliveries?time=hour",
        "/deliveries/retry?endpoint=crm",
        "/endpoints",
        "/endpoints/new",
        "/endpoints/crm",
        "/endpoints/crm?state=dead",
        "/plugins",
        "/plugins/bench-plugin",
        "/sources",
        "/sources/github",
        "/search?q=SO-2026",
        "/search?q=sample.7",
        "/settings/keys",
        "/settings/audit",
        "/settings/nodes",
    ]
    .map(str::to_owned)
    .into();
    pages.extend([format!("/events/{event}"), format!("/deliveries?event={event}"), format!("/search?q={event}")]);
    pages
}

/// What a page costs: milliseconds, and its size in kB.
pub struct PageTimes {
    pub cpu: f64,
    pub median: f64,
    pub p99: f64,
    pub kb: f64,
}

impl PageTimes {
    /// Reads a page many times, one after the other.
    pub async fn of(engine: &Engine, reader: &Reader, page: &str) -> anyhow::Result<Self> {
        let (mut times, mut bytes) = (Vec::new(), 0);
        let used = engine.server.cpu();
        for _ in 0..REQUESTS {
            let began = Instant::now();
            bytes = reader.read(page).await?.len();
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let cpu = (engine.server.cpu() - used).as_secs_f64() * 1e3 / REQUESTS as f64;
        times.sort_by(f64::total_cmp);
        Ok(Self { cpu, median: times[REQUESTS / 2], p99: times[REQUESTS * 99 / 100], kb: bytes as f64 / 1e3 })
    }
}

/// A person who is signed in.
#[derive(Clone)]
pub struct Reader {
    client: reqwest::Client,
    url: String,
    cookie: String,
}

impl Reader {
    pub async fn sign_in(url: &str) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build()?;
        let form = client.post(format!("{url}/sign-in")).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let answer = form.body(format!("key={KEY}")).send().await?;
        let cookie = answer.headers().get(header::SET_COOKIE).context("signing in sets a cookie")?.to_str()?;
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        Ok(Self { client, url: url.to_owned(), cookie })
    }

    fn get(&self, page: &str) -> reqwest::RequestBuilder {
        let request = self.client.get(format!("{}{page}", self.url));
        request.header(header::COOKIE, &self.cookie).header(header::ACCEPT, "text/html")
    }

    async fn read(&self, page: &str) -> anyhow::Result<String> {
        let answer = self.get(page).send().await?;
        // A search for a known word leads to a list.
        let is_page = answer.status().is_success() || answer.status().is_redirection();
        ensure!(is_page, "{page} answered {}", answer.status());
        Ok(answer.text().await?)
    }
}

/// Open pages. Like a page's script, each one fetches its page when its stream reports a change, one fetch at a time.
struct Watchers(Vec<JoinHandle<anyhow::Result<usize>>>, tokio::sync::watch::Sender<bool>);

impl Watchers {
    async fn open(reader: &Reader, event: &str) -> anyhow::Result<Self> {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let of_event = format!("/events/{event}");
        let shown = [
            "/",
            "/events",
            "/deliveries",
            "/endpoints",
            "/endpoints/crm",
            "/plugins",
            of_event.as_str(),
            "/",
            "/events",
            "/deliveries",
        ];
        let mut opening = JoinSet::new();
        for page in shown.iter().take(OPEN).map(|page| (*page).to_owned()) {
            let (reader, mut stopped) = (reader.clone(), stopped.clone());
            opening.spawn(async move {
                reader.read(&page).await?;
                let stream =
                    page.strip_prefix("/events/").map_or_else(|| "/live".to_owned(), |event| format!("/live?event={event}"));
                let mut signals = reader.get(&stream).send().await?.error_for_status()?;
                anyhow::Ok(tokio::spawn(async move {
                    let mut fetched = 0;
                    loop {
                        let signal = tokio::select! {
                            signal = signals.chunk() => signal?.context("a stream ended")?,
                            _ = stopped.changed() => return Ok(fetched),
                        };
                        if signal.windows(7).any(|word| word == b"changed") {
                            reader.read(&page).await?;
                            fetched += 1;
                        }
                    }
                }))
            });
        }
        let opened: anyhow::Result<Vec<_>> = opening.join_all().await.into_iter().collect();
        Ok(Self(opened?, stop))
    }

    /// Closes the pages and returns how often they were fetched.
    async fn close(self) -> anyhow::Result<usize> {
        let Self(open, stop) = self;
        stop.send_replace(true);
        let mut fetched = 0;
        for page in open {
            fetched += page.await??;
        }
        Ok(fetched)
    }
}
