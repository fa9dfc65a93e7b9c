//! Routes of trees, handoffs and tasks.

use super::super::types::{BranchRequestDoc, HandOffRequest, Page, SessionDoc, TaskDoc, TaskRequest, TreeActDoc, TreeActRequest, TreeDoc};
use super::{Client, Result, escape};

impl Client {
    pub async fn tree(&self, id: &str) -> Result<TreeDoc> {
        self.get(&format!("/v1/sessions/{}/tree", escape(id))).await
    }

    pub async fn act_on_tree(&self, id: &str, request: &TreeActRequest) -> Result<TreeActDoc> {
        self.post(&format!("/v1/sessions/{}/tree", escape(id)), request).await
    }

    pub async fn branch(&self, id: &str, request: &BranchRequestDoc) -> Result<SessionDoc> {
        self.post(&format!("/v1/sessions/{}/branches", escape(id)), request).await
    }

    pub async fn hand_off(&self, id: &str, request: &HandOffRequest) -> Result<SessionDoc> {
        self.post(&format!("/v1/sessions/{}/handoffs", escape(id)), request).await
    }

    pub async fn tasks(&self, id: &str) -> Result<Page<TaskDoc>> {
        self.get(&format!("/v1/sessions/{}/tasks", escape(id))).await
    }

    pub async fn add_task(&self, id: &str, request: &TaskRequest) -> Result<TaskDoc> {
        self.post(&format!("/v1/sessions/{}/tasks", escape(id)), request).await
    }

    pub async fn set_task(&self, id: &str, task: &str, request: &TaskRequest) -> Result<TaskDoc> {
        self.post(&format!("/v1/sessions/{}/tasks/{}", escape(id), escape(task)), request).await
    }
}
