//! The queue, one function a route.

use bytes::Bytes;
use hyper::Method;

use super::super::types::{
    LaneRequest, LeaseDoc, LeaseRequest, LeaseWord, Page, QueueDoc, QueueMoveRequest, QueueQuery, QueuedDoc, SessionDoc,
};
use super::{Client, Result, escape, query};

impl Client {
    pub async fn queue(&self) -> Result<QueueDoc> {
        self.get("/v1/queue").await
    }

    pub async fn hold_lane(&self, request: &LaneRequest) -> Result<QueueDoc> {
        self.post("/v1/queue", request).await
    }

    pub async fn queued(&self, wanted: &QueueQuery) -> Result<Page<QueuedDoc>> {
        self.get(&format!("/v1/queue/sessions{}", query(wanted)?)).await
    }

    pub async fn move_queued(&self, id: &str, to: &QueueMoveRequest) -> Result<SessionDoc> {
        self.post(&format!("/v1/queue/sessions/{}", escape(id)), to).await
    }

    pub async fn remove_queued(&self, id: &str) -> Result<SessionDoc> {
        self.call(Method::DELETE, &format!("/v1/queue/sessions/{}", escape(id)), Bytes::new()).await
    }

    pub async fn dead(&self, wanted: &QueueQuery) -> Result<Page<SessionDoc>> {
        self.get(&format!("/v1/queue/dead{}", query(wanted)?)).await
    }

    pub async fn retry_dead(&self, id: &str) -> Result<SessionDoc> {
        self.post(&format!("/v1/queue/dead/{}", escape(id)), &serde_json::json!({})).await
    }

    pub async fn lease(&self, request: &LeaseRequest) -> Result<LeaseDoc> {
        self.post("/v1/queue/leases", request).await
    }

    pub async fn settle_lease(&self, id: &str, word: &LeaseWord) -> Result<SessionDoc> {
        self.post(&format!("/v1/queue/leases/{}", escape(id)), word).await
    }
}
