//! Pipelines of tenants: the documents, and whether they are to run. What a document means is not known
//! here.
//!
//! A damaged row, or one that is gone, is noticed as those of other tables are ([`crate::sums`]); it costs that
//! pipeline only.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Transaction};
use weir_base::{TenantId, Timestamp};

use crate::checksum::{CheckedTable, Fields, checksum_in, checksum_of, integer};
use crate::error::is_damage;
use crate::sums::{self, OF_TENANT, Sums};
use crate::tenants::Tenant;
use crate::{DamagedRow, Meta, MetaError};

/// The largest document, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 512 * 1024;

pub(crate) static PIPELINES: CheckedTable = CheckedTable {
    name: "pipelines",
    key: &["tenant", "name"],
    rest: &[
        "document",
        "syntax",
        "revision",
        "incarnation",
        "trust",
        "wanted",
        "created_at",
        "changed_at",
        "changed_by",
    ],
};

/// Whose word a pipeline runs on: what its document may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The tenant's: what the configuration allows tenants.
    Tenant,
    /// An administrator's: whatever there is.
    Administrator,
    /// Weir's own: it ships with it, runs for every tenant, and reaches streams only.
    Weir,
}

impl Trust {
    /// As it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Administrator => "administrator",
            Self::Weir => "weir",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Tenant, Self::Administrator, Self::Weir].into_iter().find(|trust| trust.as_str() == text)
    }
}

/// Whether a pipeline is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It runs, also after a restart of the server.
    Running,
    /// It was stopped, and keeps its checkpoint.
    Stopped,
}

impl Wanted {
    /// As it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Running, Self::Stopped].into_iter().find(|wanted| wanted.as_str() == text)
    }
}

/// The language of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentSyntax {
    /// YAML.
    Yaml,
    /// TOML.
    Toml,
    /// JSON.
    Json,
}

impl DocumentSyntax {
    /// As it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Yaml => "yaml",
            Self::Toml => "toml",
            Self::Json => "json",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Yaml, Self::Toml, Self::Json].into_iter().find(|syntax| syntax.as_str() == text)
    }
}

/// A pipeline as it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineRecord {
    /// The owner.
    pub tenant: TenantId,
    /// Its name, as in the document.
    pub name: String,
    /// The document as it was written: YAML, TOML or JSON, with the references to secrets in it and not
    /// the secrets.
    pub document: String,
    /// In which language it is written.
    pub syntax: DocumentSyntax,
    /// Rises by one each time the document changes, from 1.
    pub revision: u64,
    /// A random number that is another one whenever the pipeline begins anew: its checkpoints, and what it
    /// has written once, belong to it.
    pub incarnation: u64,
    /// Who vouches for the document.
    pub trust: Trust,
    /// Whether it is to run.
    pub wanted: Wanted,
    /// When it was first applied.
    pub created_at: Timestamp,
    /// When its document was last changed.
    pub changed_at: Timestamp,
    /// The id of the key that changed it.
    pub changed_by: String,
}

/// A document to be kept.
#[derive(Clone, Debug)]
pub struct PipelinePut {
    /// The owner.
    pub tenant: TenantId,
    /// The name in the document.
    pub name: String,
    /// The document.
    pub document: String,
    /// In which language it is written.
    pub syntax: DocumentSyntax,
    /// Whether the pipeline begins anew; a new one does in any case.
    pub anew: bool,
    /// The incarnation it begins as, if somebody has prepared one; otherwise a random one.
    pub incarnation: Option<u64>,
    /// Who vouches for it.
    pub trust: Trust,
    /// Whether it is to run.
    pub wanted: Wanted,
    /// The id of the key that is used.
    pub by: String,
}

impl PipelinePut {
    /// A number no incarnation has.
    pub fn new_incarnation() -> u64 {
        // Half of all numbers, so that it is one for the database, too.
        u64::from_be_bytes(weir_base::random::bytes()) >> 1
    }
}

fn decode(mut fields: Fields) -> Result<PipelineRecord, DamagedRow> {
    let (tenant, name) = (fields.text(), fields.text());
    let unreadable = fields.unreadable(&format!("{tenant}/{name}"));
    let parsed = (|| {
        Some(PipelineRecord {
            tenant: TenantId::new(&tenant).ok()?,
            name,
            document: fields.text(),
            syntax: DocumentSyntax::parse(&fields.text())?,
            revision: fields.unsigned(),
            incarnation: fields.unsigned(),
            trust: Trust::parse(&fields.text())?,
            wanted: Wanted::parse(&fields.text())?,
            created_at: Timestamp(fields.int()),
            changed_at: Timestamp(fields.int()),
            changed_by: fields.text(),
        })
    })();
    parsed.ok_or(unreadable)
}

fn encode(pipeline: &PipelineRecord) -> Vec<Value> {
    PIPELINES.sealed(vec![
        Value::Text(pipeline.tenant.to_string()),
        Value::Text(pipeline.name.clone()),
        Value::Text(pipeline.document.clone()),
        Value::Text(pipeline.syntax.as_str().to_owned()),
        integer(pipeline.revision),
        integer(pipeline.incarnation),
        Value::Text(pipeline.trust.as_str().to_owned()),
        Value::Text(pipeline.wanted.as_str().to_owned()),
        Value::Integer(pipeline.created_at.0),
        Value::Integer(pipeline.changed_at.0),
        Value::Text(pipeline.changed_by.clone()),
    ])
}

fn failed(error: rusqlite::Error) -> MetaError {
    MetaError::database("read pipelines", error)
}

fn stored_checksum(transaction: &Transaction<'_>, tenant: &TenantId, name: &str) -> Result<Option<u32>, MetaError> {
    transaction
        .prepare_cached("SELECT crc FROM pipelines WHERE tenant = ?1 AND name = ?2")
        .and_then(|mut statement| statement.query_row([tenant.as_str(), name], checksum_of).optional())
        .map_err(failed)
}

fn write(transaction: &Transaction<'_>, pipeline: &PipelineRecord) -> Result<(), MetaError> {
    let row = encode(pipeline);
    let mut sums = Sums::change(transaction, &PIPELINES, pipeline.tenant.as_str(), OF_TENANT)?;
    if let Some(before) = stored_checksum(transaction, &pipeline.tenant, &pipeline.name)? {
        sums.remove(before);
    }
    sums.add(checksum_in(&row));
    sums.finish(transaction)?;
    transaction
        .prepare_cached(&PIPELINES.put())
        .and_then(|mut statement| statement.execute(rusqlite::params_from_iter(row)))
        .map_err(|error| MetaError::database("write a pipeline", error))?;
    Ok(())
}

fn read(connection: &rusqlite::Connection, tenant: &TenantId, name: &str) -> Result<Option<PipelineRecord>, MetaError> {
    let row = connection
        .prepare_cached(&PIPELINES.select("WHERE tenant = ?1 AND name = ?2"))
        .and_then(|mut statement| statement.query_row([tenant.as_str(), name], |row| PIPELINES.read(row)).optional())
        .map_err(failed)?;
    match row.map(|row| row.and_then(decode)) {
        None => Ok(None),
        Some(Ok(pipeline)) => Ok(Some(pipeline)),
        Some(Err(row)) => Err(MetaError::Corrupt(DamagedRow { tenant: Some(tenant.clone()), ..row })),
    }
}

/// Whether a tenant may have one more pipeline.
fn check_count(connection: &rusqlite::Connection, tenant: &Tenant, put: &PipelinePut) -> Result<(), MetaError> {
    if put.trust == Trust::Weir {
        return Ok(());
    }
    let current: i64 = connection
        .query_row(
            "SELECT count(*) FROM pipelines WHERE tenant = ?1 AND name <> ?2 AND trust <> 'weir'",
            [put.tenant.as_str(), &put.name],
            |row| row.get(0),
        )
        .map_err(failed)?;
    let (current, value) = (u64::try_from(current).unwrap_or(0), tenant.limits.pipelines_max);
    if current >= value {
        return Err(MetaError::Limit { name: "pipelines_max", value, current });
    }
    Ok(())
}

impl Meta {
    /// All pipelines of all tenants that are not deleted, by tenant and name. Damaged rows are left out and
    /// noted in [`Meta::damage`].
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn all_pipelines(&self) -> Result<Vec<PipelineRecord>, MetaError> {
        let reader = self.reader.lock();
        let mut statement = reader.prepare(&PIPELINES.select("ORDER BY tenant, name")).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut pipelines = Vec::new();
        let mut found: HashMap<String, Sums> = HashMap::new();
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => break,
                Err(error) if is_damage(&error) => {
                    self.note_damage(&PIPELINES.damaged(&[], "a page of the table cannot be read"));
                    break;
                }
                Err(error) => return Err(failed(error)),
            };
            let crc = checksum_of(row).map_err(failed)?;
            match PIPELINES.read(row).map_err(failed)?.and_then(decode) {
                Ok(pipeline) => {
                    found.entry(pipeline.tenant.to_string()).or_default().add(crc);
                    pipelines.push(pipeline);
                }
                Err(damaged) => self.note_damage(&damaged),
            }
        }
        for tenant in self.tenants.ids() {
            let found = found.get(tenant.as_str()).copied().unwrap_or_default();
            let damaged = match Sums::read(&reader, &PIPELINES, tenant.as_str())? {
                Some(Ok(sums)) if sums != found => PIPELINES.damaged(&[Value::Text(tenant.to_string())], sums::PROBLEM),
                Some(Err(row)) => row,
                Some(Ok(_)) | None => continue,
            };
            self.note_damage(&DamagedRow { tenant: Some(tenant), ..damaged });
        }
        drop(rows);
        drop(statement);
        drop(reader);
        pipelines.retain(|pipeline| matches!(self.tenant(&pipeline.tenant), Ok(Some(_))));
        Ok(pipelines)
    }

    /// The pipelines of a tenant, by name. Damaged rows are left out and noted in [`Meta::damage`].
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn pipelines(&self, tenant: &TenantId) -> Result<Vec<PipelineRecord>, MetaError> {
        let reader = self.reader.lock();
        let mut statement =
            reader.prepare_cached(&PIPELINES.select("WHERE tenant = ?1 ORDER BY name")).map_err(failed)?;
        let rows = statement.query_map([tenant.as_str()], |row| PIPELINES.read(row)).map_err(failed)?;
        let mut pipelines = Vec::new();
        for row in rows {
            match row.map_err(failed)?.and_then(decode) {
                Ok(pipeline) => pipelines.push(pipeline),
                Err(row) => self.note_damage(&DamagedRow { tenant: Some(tenant.clone()), ..row }),
            }
        }
        Ok(pipelines)
    }

    /// One pipeline.
    ///
    /// # Errors
    /// [`MetaError::Corrupt`] if its row is damaged.
    pub fn pipeline(&self, tenant: &TenantId, name: &str) -> Result<Option<PipelineRecord>, MetaError> {
        read(&self.reader.lock(), tenant, name)
    }

    /// Keeps a document, in place of the one of the same name. The revision rises if the document, or who
    /// vouches for it, is another. Takes the place of a damaged row, too.
    ///
    /// # Errors
    /// [`MetaError::Limit`] at the tenant's `pipelines_max`, which Weir's own do not count for, [`MetaError::Invalid`] for a document that is
    /// too large.
    pub fn put_pipeline(&self, put: PipelinePut) -> Result<PipelineRecord, MetaError> {
        let tenant = self.with_room_for(&put)?;
        let now = self.clock.now();
        self.write("keep a pipeline", |transaction| {
            if !crate::tenants::is_live(transaction, &put.tenant)? {
                return Err(MetaError::not_found("tenant", &put.tenant));
            }
            let before = match read(transaction, &put.tenant, &put.name) {
                Ok(before) => before,
                Err(MetaError::Corrupt(row)) => {
                    self.note_damage(&row);
                    None
                }
                Err(error) => return Err(error),
            };
            if before.is_none() {
                check_count(transaction, &tenant, &put)?;
            }
            let is_same = before.as_ref().is_some_and(|before| {
                before.document == put.document && before.syntax == put.syntax && before.trust == put.trust
            });
            let incarnation = match &before {
                Some(before) if !put.anew => before.incarnation,
                _ => put.incarnation.unwrap_or_else(PipelinePut::new_incarnation),
            };
            let pipeline = match before {
                Some(before) if is_same => PipelineRecord { wanted: put.wanted, incarnation, ..before },
                before => PipelineRecord {
                    incarnation,
                    syntax: put.syntax,
                    revision: before.as_ref().map_or(0, |before| before.revision) + 1,
                    created_at: before.map_or(now, |before| before.created_at),
                    tenant: put.tenant,
                    name: put.name,
                    document: put.document,
                    trust: put.trust,
                    wanted: put.wanted,
                    changed_at: now,
                    changed_by: put.by,
                },
            };
            write(transaction, &pipeline)?;
            Ok(pipeline)
        })
    }

    /// Whether [`Meta::put_pipeline`] would keep a document now.
    ///
    /// # Errors
    /// Those of [`Meta::put_pipeline`].
    pub fn may_put_pipeline(&self, put: &PipelinePut) -> Result<(), MetaError> {
        let tenant = self.with_room_for(put)?;
        let reader = self.reader.lock();
        match read(&reader, &put.tenant, &put.name) {
            Ok(Some(_)) => Ok(()),
            Ok(None) | Err(MetaError::Corrupt(_)) => check_count(&reader, &tenant, put),
            Err(error) => Err(error),
        }
    }

    /// The owner of a document that is not too large.
    fn with_room_for(&self, put: &PipelinePut) -> Result<Arc<Tenant>, MetaError> {
        if put.document.len() > DOCUMENT_BYTES_MAX {
            let message = format!("a document of {} bytes is larger than {DOCUMENT_BYTES_MAX}", put.document.len());
            return Err(MetaError::invalid("/document", message, ""));
        }
        self.tenant(&put.tenant)?.ok_or_else(|| MetaError::not_found("tenant", &put.tenant))
    }

    /// Notes whether a pipeline is to run.
    ///
    /// # Errors
    /// [`MetaError::NotFound`] if there is none of that name.
    pub fn want_pipeline(&self, tenant: &TenantId, name: &str, wanted: Wanted) -> Result<PipelineRecord, MetaError> {
        self.write("change a pipeline", |transaction| {
            let pipeline = read(transaction, tenant, name)?.ok_or_else(|| MetaError::not_found("pipeline", name))?;
            let pipeline = PipelineRecord { wanted, ..pipeline };
            write(transaction, &pipeline)?;
            Ok(pipeline)
        })
    }

    /// Forgets a pipeline, also one whose row is damaged.
    ///
    /// # Errors
    /// [`MetaError::NotFound`] if there is none of that name.
    pub fn delete_pipeline(&self, tenant: &TenantId, name: &str) -> Result<(), MetaError> {
        self.write("delete a pipeline", |transaction| {
            let crc = stored_checksum(transaction, tenant, name)?;
            let crc = crc.ok_or_else(|| MetaError::not_found("pipeline", name))?;
            let mut sums = Sums::change(transaction, &PIPELINES, tenant.as_str(), OF_TENANT)?;
            sums.remove(crc);
            sums.finish(transaction)?;
            transaction
                .execute("DELETE FROM pipelines WHERE tenant = ?1 AND name = ?2", [tenant.as_str(), name])
                .map_err(|error| MetaError::database("delete a pipeline", error))?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
