//! Memory, one function a route.

use bytes::Bytes;
use hyper::Method;

use super::super::types::{MemoryAddRequest, MemoryDoc, MemoryQuery, Page};
use super::{Client, Result, escape, query};

impl Client {
    pub async fn add_memory(&self, request: &MemoryAddRequest) -> Result<MemoryDoc> {
        self.post("/v1/memory", request).await
    }

    pub async fn memories(&self, wanted: &MemoryQuery) -> Result<Page<MemoryDoc>> {
        self.get(&format!("/v1/memory{}", query(wanted)?)).await
    }

    pub async fn remove_memory(&self, id: &str) -> Result<MemoryDoc> {
        self.call(Method::DELETE, &format!("/v1/memory/{}", escape(id)), Bytes::new()).await
    }
}
