//! Sinks, one function a route.

use super::super::types::{DeadLetterDoc, DeadLettersQuery, Page, SinkRetryDoc, SinkRetryRequest, SinkSkipDoc, SinkSkipRequest, SinksDoc};
use super::{Client, Result, escape, query};

impl Client {
    pub async fn sinks(&self) -> Result<SinksDoc> {
        self.get("/v1/sinks").await
    }

    pub async fn dead_letters(&self, sink: &str, wanted: &DeadLettersQuery) -> Result<Page<DeadLetterDoc>> {
        self.get(&format!("/v1/sinks/{}/dead-letters{}", escape(sink), query(wanted)?)).await
    }

    pub async fn retry_sink(&self, sink: &str, request: &SinkRetryRequest) -> Result<SinkRetryDoc> {
        self.post(&format!("/v1/sinks/{}/retry", escape(sink)), request).await
    }

    pub async fn skip_sink(&self, sink: &str, request: &SinkSkipRequest) -> Result<SinkSkipDoc> {
        self.post(&format!("/v1/sinks/{}/skip", escape(sink)), request).await
    }
}
