//! Archives and erasures, over the wire. They answer once all is done, however long that takes.

use bytes::Bytes;
use hyper::Method;

use super::{Client, Result, escape, query};
use crate::api::types::{
    ArchiveDoc, ArchiveRequest, ArchivesRequest, BackupDoc, BackupRequest, CollectDoc, CollectRequestDoc, Page, RedactDoc, RedactRequest,
    TranscriptDoc, TranscriptQuery,
};

impl Client {
    pub async fn collect(&self, request: &CollectRequestDoc) -> Result<CollectDoc> {
        self.patient().post("/v1/host/gc", request).await
    }

    pub async fn backup(&self, request: &BackupRequest) -> Result<BackupDoc> {
        self.patient().post("/v1/host/backup", request).await
    }

    pub async fn archive(&self, id: &str, request: &ArchiveRequest) -> Result<ArchiveDoc> {
        self.patient().post(&format!("/v1/sessions/{}/archive", escape(id)), request).await
    }

    pub async fn archive_ended(&self, request: &ArchivesRequest) -> Result<Page<ArchiveDoc>> {
        self.patient().post("/v1/archives", request).await
    }

    pub async fn restore_archives(&self, id: &str) -> Result<Page<ArchiveDoc>> {
        self.patient().call(Method::POST, &format!("/v1/sessions/{}/archive/restore", escape(id)), Bytes::new()).await
    }

    pub async fn redact(&self, id: &str, request: &RedactRequest) -> Result<RedactDoc> {
        self.patient().post(&format!("/v1/sessions/{}/redact", escape(id)), request).await
    }

    /// The agent's own records that were kept, newest attempt first.
    pub async fn transcripts(&self, id: &str) -> Result<Page<TranscriptDoc>> {
        self.get(&format!("/v1/sessions/{}/transcripts", escape(id))).await
    }

    /// Copies one of them to `out`.
    pub async fn transcript(&self, id: &str, wanted: &TranscriptQuery, out: &mut dyn std::io::Write) -> Result<()> {
        self.copy(&format!("/v1/sessions/{}/transcript{}", escape(id), query(wanted)?), out).await
    }
}
