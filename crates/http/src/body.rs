//! Reading a request's body, bounded in size and time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tarn_api::ErrorCode;

use crate::{HttpConfig, failure::Failure};

/// How much of a body that is too large is read and thrown away, and for how long. A client that
/// is still sending when the connection closes sees a broken pipe instead of the 413.
const DRAIN_LIMIT: usize = 8 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Reads a whole body.
pub(crate) async fn read_body(config: &HttpConfig, body: Body) -> Result<Bytes, Failure> {
    read(config, body, config.body_limit).await
}

/// Reads a whole body that is about a build or a registered image.
pub(crate) async fn read_build_body(config: &HttpConfig, body: Body) -> Result<Bytes, Failure> {
    read(config, body, config.build_body_limit).await
}

async fn read(config: &HttpConfig, body: Body, limit: usize) -> Result<Bytes, Failure> {
    let read = collect(body, limit);
    match tokio::time::timeout(config.body_timeout, read).await {
        Ok(result) => result,
        Err(_elapsed) => {
            let secs = config.body_timeout.as_secs();
            let text = format!("body: it did not arrive within {secs} s; send it faster");
            Err(Failure::new(ErrorCode::InvalidRequest, text))
        }
    }
}

async fn collect(mut body: Body, limit: usize) -> Result<Bytes, Failure> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|broken| {
            let text = format!("body: it broke off: {broken}");
            Failure::new(ErrorCode::InvalidRequest, text)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if collected.len() + data.len() > limit {
            drain(body).await;
            let text = format!("body: more than {limit} bytes; send less");
            return Err(Failure::new(ErrorCode::PayloadTooLarge, text));
        }
        collected.extend_from_slice(&data);
    }
    Ok(collected.freeze())
}

async fn drain(mut body: Body) {
    let rest = async {
        let mut drained = 0;
        while let Some(Ok(frame)) = body.frame().await {
            drained += frame.data_ref().map_or(0, Bytes::len);
            if drained > DRAIN_LIMIT {
                return;
            }
        }
    };
    // However it ends, the answer goes out next.
    drop(tokio::time::timeout(DRAIN_TIME, rest).await);
}
