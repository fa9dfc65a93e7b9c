//! Context providers, one function a route.

use bytes::Bytes;
use hyper::Method;

use super::super::types::{ContextProviderDoc, ContextRequest, Page};
use super::{Client, Result, escape};

impl Client {
    pub async fn context(&self, id: &str) -> Result<Page<ContextProviderDoc>> {
        self.get(&format!("/v1/sessions/{}/context", escape(id))).await
    }

    pub async fn add_context(&self, id: &str, request: &ContextRequest) -> Result<Page<ContextProviderDoc>> {
        self.post(&format!("/v1/sessions/{}/context", escape(id)), request).await
    }

    pub async fn remove_context(&self, id: &str, name: &str) -> Result<Page<ContextProviderDoc>> {
        self.call(Method::DELETE, &format!("/v1/sessions/{}/context/{}", escape(id), escape(name)), Bytes::new()).await
    }
}
