//! The webhook: one notice a POST, through `outbound`.

use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use url::Url;

use super::{Error, Failure, Notice};
use crate::config::Notify;
use crate::outbound::{self, Kept, Message, Receiver};

/// See the module.
pub struct Webhook(Receiver);

impl Webhook {
    /// Reads the secret and the system's certificate authorities.
    pub fn new(url: Url, config: &Notify) -> Result<Self, Error> {
        let secret = Kept { file: config.secret_file.as_ref(), variable: config.secret_env.as_ref() };
        let receiver = Receiver::new(url, &secret, &Kept::default(), Duration::from_millis(config.timeout_ms));
        receiver.map(Self).map_err(|e| match e {
            outbound::Error::Secret { from, why } => Error::Secret { from, why },
            outbound::Error::Roots(why) => Error::Roots(why),
        })
    }

    /// One try, within the deadline.
    pub async fn send(&self, notice: &Notice, delivery: &str) -> Result<(), Failure> {
        let message = Message {
            content_type: "application/json",
            headers: vec![("beadle-event", notice.kind()), ("beadle-delivery", delivery.to_owned())],
            body: Bytes::from(notice.document(delivery).to_string()),
        };
        judge(self.0.post(message).await?.status)
    }
}

/// Whether a status means that it was taken, and if not, whether to try again.
fn judge(status: StatusCode) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    let what = if status.is_redirection() { ", a redirect, which is never followed" } else { "" };
    let again = status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    Err(Failure { why: format!("the receiver answered {}{what}", status.as_u16()), again })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let again = |s: u16| judge(StatusCode::from_u16(s).unwrap()).map_err(|f| f.again);
        assert_eq!([200, 204].map(again), [Ok(()), Ok(())]);
        assert_eq!([500, 503, 429, 408].map(again), [Err(true); 4]);
        assert_eq!([301, 307, 400, 401, 404, 410].map(again), [Err(false); 6]);
    }
}
