//! The handler of identity (spec 08 §1).

use axum::{Extension, Json};
use tarn_api::response::KeyIdentity;
use tarn_control::Caller;

pub(crate) async fn introspect(Extension(caller): Extension<Caller>) -> Json<KeyIdentity> {
    Json(KeyIdentity::new(&caller.key, &caller.project))
}
