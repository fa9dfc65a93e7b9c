//! Errors as answers: one mapping from stable codes to status and problem body.

use axum::Json;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::types::Problem;
use crate::whole::apart_task;
use crate::{model, process, registry, session, sink, store};

/// What a handler answers instead of a document.
#[derive(Debug)]
pub struct ApiError {
    pub status: StatusCode,
    pub problem: Problem,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, problem: Problem { code: code.to_owned(), message: message.into(), hint: None } }
    }

    /// The peer's role does not reach this far.
    pub fn forbidden(what: &str, role: &str) -> Self {
        let message = format!("{what} needs the role operator; this connection has the role {role}");
        let mut e = Self::new(StatusCode::FORBIDDEN, "BDL-API-001", message);
        e.problem.hint = Some("run the command in a terminal outside the session".to_owned());
        e
    }

    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BDL-API-002", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.problem)).into_response()
    }
}

impl From<model::IdError> for ApiError {
    fn from(e: model::IdError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BDL-API-003", e.to_string())
    }
}

impl From<store::Error> for ApiError {
    fn from(e: store::Error) -> Self {
        use store::Error as E;
        let status = match &e {
            E::Write(_) => StatusCode::CONFLICT,
            E::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            E::NotFound { .. } | E::NoApproval { .. } => StatusCode::NOT_FOUND,
            E::Ambiguous { .. }
            | E::Undelivered { .. }
            | E::NotArchived { .. }
            | E::NothingToArchive { .. }
            | E::Archive { .. }
            | E::NotErased { .. }
            | E::BadBackup { .. }
            | E::NotEmpty { .. } => StatusCode::CONFLICT,
            E::BadCursor { .. } | E::BadDigest { .. } | E::Checkpoint { .. } => StatusCode::BAD_REQUEST,
            E::Busy { .. } | E::Full { .. } | E::Closed => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, e.code(), e.to_string())
    }
}

impl From<session::Error> for ApiError {
    fn from(e: session::Error) -> Self {
        use session::Error as E;
        let status = match &e {
            E::Store(_) => {
                let E::Store(inner) = e else { return Self::new(StatusCode::INTERNAL_SERVER_ERROR, "BDL-API-000", "unreachable") };
                return inner.into();
            }
            E::Cwd { .. }
            | E::Program { .. }
            | E::Refused { .. }
            | E::Record(_)
            | E::Write(_)
            | E::BadRule { .. }
            | E::Agent(_)
            | E::NoPrompts(_)
            | E::Mediation { .. }
            | E::NoSuchRule { .. }
            | E::Config(_) => StatusCode::UNPROCESSABLE_ENTITY,
            E::Ended(_)
            | E::InputClosed(_)
            | E::PutAway { .. }
            | E::Compaction { .. }
            | E::Strategy { .. }
            | E::NothingSaved { .. }
            | E::NotTaken { .. }
            | E::NotEnded(..)
            | E::NotRunning { .. }
            | E::NotPaused { .. }
            | E::NotPausable { .. }
            | E::NothingWaits { .. }
            | E::Answered { .. }
            | E::RuleLost { .. }
            | E::NotAttested { .. }
            | E::Endorsed { .. }
            | E::Unnamed { .. }
            | E::SessionRefused { .. }
            | E::PromptRefused { .. }
            | E::Loosens { .. }
            | E::NotOurs(_)
            | E::OtherWriter(_)
            | E::OtherRecord { .. }
            | E::Silent(_)
            | E::OtherProcess { .. } => StatusCode::CONFLICT,
            E::Tree(t) => tree(t),
            E::Memory(m) => memory(m),
            E::Context(c) => context(c),
            E::Queue(q) => queue(q),
            E::NoRule(_) | E::NoOriginal { .. } | E::NoTranscript { .. } => StatusCode::NOT_FOUND,
            E::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            E::Busy | E::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            E::Process(
                process::Error::ProgramMissing { .. }
                | process::Error::ProgramRefused { .. }
                | process::Error::BadCwd { .. }
                | process::Error::BadSpec { .. },
            ) => StatusCode::UNPROCESSABLE_ENTITY,
            E::Plugin(p) => match p {
                registry::Error::NoPlugin(_) => StatusCode::NOT_FOUND,
                registry::Error::Exists(_) | registry::Error::Loosens { .. } => StatusCode::CONFLICT,
                registry::Error::Refused { .. } | registry::Error::Load(_) => StatusCode::UNPROCESSABLE_ENTITY,
                registry::Error::File { .. } | registry::Error::Digest { .. } | registry::Error::Lock { .. } => {
                    StatusCode::INTERNAL_SERVER_ERROR
                }
            },
            E::Process(_) | E::Usurped(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, e.code(), e.to_string())
    }
}

fn context(e: &model::ContextError) -> StatusCode {
    use model::ContextError as C;
    match e {
        C::Name { .. } | C::Setting { .. } | C::Unknown { .. } | C::NotTaken { .. } | C::Elsewhere => StatusCode::UNPROCESSABLE_ENTITY,
        C::NotThere { .. } => StatusCode::NOT_FOUND,
        C::There { .. } | C::Full { .. } => StatusCode::CONFLICT,
    }
}

fn queue(e: &session::QueueError) -> StatusCode {
    use session::QueueError as Q;
    match e {
        Q::NoLane { .. } => StatusCode::NOT_FOUND,
        Q::Refused { .. } | Q::Circle { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        Q::Full { .. } => StatusCode::TOO_MANY_REQUESTS,
        Q::Stopped { .. } | Q::NotWaiting { .. } | Q::NotDead { .. } | Q::LeaseOver { .. } => StatusCode::CONFLICT,
        Q::Kept { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn memory(e: &model::MemoryError) -> StatusCode {
    use model::MemoryError as M;
    match e {
        M::NoEntry(_) => StatusCode::NOT_FOUND,
        M::NamespaceFull { .. } | M::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

fn tree(e: &crate::session::TreeError) -> StatusCode {
    use crate::session::TreeError as T;
    match e {
        T::NoTask { .. } => StatusCode::NOT_FOUND,
        T::TooMany { .. } | T::Busy(_) | T::TooManyTasks(_) => StatusCode::TOO_MANY_REQUESTS,
        T::Stored(_) => StatusCode::INTERNAL_SERVER_ERROR,
        T::TooDeep { .. } | T::GoesOn { .. } | T::Spent { .. } | T::Unmeasured { .. } | T::ToItself(_) | T::NoBranch { .. } => {
            StatusCode::CONFLICT
        }
    }
}

impl From<sink::Error> for ApiError {
    fn from(e: sink::Error) -> Self {
        use sink::Error as E;
        let status = match &e {
            E::NoSink(_) => StatusCode::NOT_FOUND,
            E::BadSkip { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            E::NotNext { .. } | E::NothingWaits { .. } | E::NoRoom { .. } => StatusCode::CONFLICT,
            E::Busy { .. } | E::Store { .. } => StatusCode::SERVICE_UNAVAILABLE,
            E::Log(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, e.code(), e.to_string())
    }
}

/// The answer to a path that is no route.
pub async fn no_route(method: axum::http::Method, uri: axum::http::Uri) -> ApiError {
    let path: String = uri.path().chars().take(200).collect();
    ApiError::new(StatusCode::NOT_FOUND, "BDL-API-005", format!("there is no {method} {path}; see the routes in the README"))
}

/// What agents send ends no more than its own request. A hook that is answered so blocks its call.
pub async fn apart(request: Request, next: Next) -> Response {
    let done = apart_task(next.run(request)).await;
    done.unwrap_or_else(|why| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "BDL-API-042", format!("the host failed on it: {why}")).into_response()
    })
}

/// A JSON body or query that could not be read, with its own words.
impl From<axum::extract::rejection::JsonRejection> for ApiError {
    fn from(e: axum::extract::rejection::JsonRejection) -> Self {
        let status = e.status();
        Self::new(status, "BDL-API-002", e.body_text())
    }
}

impl From<axum::extract::rejection::QueryRejection> for ApiError {
    fn from(e: axum::extract::rejection::QueryRejection) -> Self {
        Self::malformed(e.body_text())
    }
}
