//! Sources: what operators set of the addresses for third parties. What makes an address unguessable is sealed with its secrets.

use std::sync::Arc;

use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::rows::{self, Place};
use crate::{
    clock,
    domain::{
        endpoint::HeldSecret,
        id::SourceId,
        name::Slug,
        signature::Secret,
        source::{Draft, NewSource, Source, Token},
        time::Timestamp,
    },
    store::{Error, Seal},
};

/// The column `draft`. A member that is missing is as the preset has it.
#[derive(Default, Serialize, Deserialize)]
#[serde(remote = "Draft", default)]
struct DraftColumn {
    preset: String,
    header: Option<String>,
    algorithm: Option<String>,
    encoding: Option<String>,
    prefix: Option<String>,
    template: Option<String>,
    list_key: Option<String>,
    timestamp: Option<String>,
    tolerance: Option<String>,
    username: Option<String>,
    type_from: Option<String>,
    type_prefix: Option<String>,
    dedupe: Option<String>,
    attributes: Vec<(String, String)>,
    methods: Vec<String>,
    content_types: Vec<String>,
    allow: Vec<String>,
    headers: Option<Vec<String>>,
    body_bytes_max: Option<u64>,
    rate: Option<String>,
    answer_status: Option<u16>,
    answer_body: Option<String>,
    answer_content_type: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Drafted(#[serde(with = "DraftColumn")] Draft);

/// What the column `sealed` holds, encrypted.
#[derive(Serialize, Deserialize)]
struct SealedColumn {
    token: String,
    /// Each with the end of its grace, ms.
    secrets: Vec<(String, Option<i64>)>,
}

/// What a source's secrets are bound to.
fn seal_context(name: &str) -> String {
    format!("source {name}")
}

fn sealed(source: &NewSource, seal: &Seal) -> Result<Vec<u8>, Error> {
    let secret = |held: &HeldSecret| (held.secret.reveal(), held.until.map(Timestamp::millis));
    let column = SealedColumn { token: source.token.as_str().to_owned(), secrets: source.secrets.iter().map(secret).collect() };
    let text = Zeroizing::new(rows::json(&column));
    Ok(seal.seal(&seal_context(&source.name), text.as_bytes())?)
}

pub fn create(db: &Connection, seal: &Seal, new: NewSource) -> Result<Source, Error> {
    let taken: bool =
        db.prepare_cached("SELECT EXISTS (SELECT 1 FROM source WHERE name = ?1)")?.query_row([&*new.name], |row| row.get(0))?;
    if taken {
        return Err(Error::Taken { what: "source", name: new.name.to_string() });
    }
    let created_at = clock::wall();
    db.prepare_cached("INSERT INTO source (name, title, draft, created_at, sealed) VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(
        params![&*new.name, new.title, rows::json(&Drafted(new.draft.clone())), created_at.millis(), sealed(&new, seal)?],
    )?;
    Ok(Source { id: SourceId::from_i64(db.last_insert_rowid()), created_at, new })
}

pub fn update(db: &Connection, seal: &Seal, source: &Source) -> Result<(), Error> {
    let new = &source.new;
    // Its name is fixed, and its secrets are bound to it.
    let changed =
        db.prepare_cached("UPDATE source SET title = ?1, draft = ?2, sealed = ?3 WHERE id = ?4 AND name = ?5")?.execute(
            params![new.title, rows::json(&Drafted(new.draft.clone())), sealed(new, seal)?, source.id.as_i64(), &*new.name],
        )?;
    found(changed)
}

pub fn delete(db: &Connection, id: SourceId) -> Result<(), Error> {
    found(db.prepare_cached("DELETE FROM source WHERE id = ?1")?.execute([id.as_i64()])?)
}

fn found(changed: usize) -> Result<(), Error> {
    if changed == 0 { Err(Error::NotFound { what: "source" }) } else { Ok(()) }
}

/// Seals every source's secrets anew.
pub fn reseal(db: &Connection, old: &[Arc<Seal>], new: &Seal) -> Result<(), Error> {
    let mut select = db.prepare("SELECT id, name, sealed FROM source")?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    for row in rows.collect::<Result<Vec<(i64, String, Vec<u8>)>, _>>()? {
        let (id, name, sealed) = row;
        let context = seal_context(&name);
        let plain = old.iter().find_map(|seal| seal.open(&context, &sealed));
        let plain = plain.ok_or_else(|| Place { table: "source", id }.corrupt("sealed"))?;
        db.execute("UPDATE source SET sealed = ?1 WHERE id = ?2", params![new.seal(&context, &plain)?, id])?;
    }
    Ok(())
}

/// The columns of [`source`], in its order.
pub const SOURCE_COLUMNS: &str = "id, name, title, draft, created_at, sealed";

/// Reads [`SOURCE_COLUMNS`]. The secrets open with one of `seals`.
pub fn source(row: &Row<'_>, seals: &[Arc<Seal>]) -> Result<Source, Error> {
    let place = Place { table: "source", id: row.get(0)? };
    let name = Slug::parse(&row.get::<_, String>(1)?).map_err(|_| place.corrupt("name"))?;
    let Drafted(draft) = rows::json_column(&place, "draft", &row.get::<_, String>(3)?)?;
    let settings = draft.settle().map_err(|_| place.corrupt("draft"))?;
    let column: Vec<u8> = row.get(5)?;
    let context = seal_context(&name);
    let opened = seals.iter().find_map(|seal| seal.open(&context, &column)).ok_or_else(|| place.corrupt("sealed"))?;
    let SealedColumn { token, secrets } = serde_json::from_slice(&opened).map_err(|_| place.corrupt("sealed"))?;
    let held = |(secret, until): (String, Option<i64>)| HeldSecret {
        secret: Secret::Text(secret),
        until: until.map(Timestamp::from_millis),
    };
    Ok(Source {
        id: SourceId::from_i64(place.id),
        created_at: Timestamp::from_millis(row.get(4)?),
        new: NewSource {
            name,
            title: row.get(2)?,
            token: Token::parse(&token).ok_or_else(|| place.corrupt("sealed"))?,
            draft,
            settings,
            secrets: secrets.into_iter().map(held).collect(),
        },
    })
}

pub fn all(db: &Connection, seals: &[Arc<Seal>]) -> Result<Vec<Source>, Error> {
    let mut select = db.prepare_cached(&format!("SELECT {SOURCE_COLUMNS} FROM source ORDER BY name"))?;
    let mut rows = select.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(source(row, seals)?);
    }
    Ok(found)
}
