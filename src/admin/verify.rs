//! Reading everything that is stored again, beside the service: started by a POST, looked at by a GET.

use actix_web::HttpResponse;
use serde_json::{Value, json};

use super::{
    json::{parameter, refuse, reply},
    state::State,
};
use crate::mirror::Repair;

pub(super) fn start(state: &State, query: &str) -> HttpResponse {
    let repair = match parameter(query, "repair").as_deref() {
        None | Some("false") => Repair::Nothing,
        Some("true") => Repair::Unreadable,
        Some(_) => return refuse(400, "UNSUPPORTED", "repair is true or false"),
    };
    match state.mirror.scrub().start(repair) {
        Ok(true) => {
            tracing::info!(target: "weir::admin", ?repair, "verification started");
            reply(202, &describe(state))
        }
        Ok(false) => refuse(409, "UNSUPPORTED", "a verification is under way; GET /api/v1/verify tells how far it is"),
        Err(error) => refuse(500, "UNKNOWN", &error.to_string()),
    }
}

pub(super) fn status(state: &State) -> HttpResponse {
    reply(200, &describe(state))
}

fn describe(state: &State) -> Value {
    let status = state.mirror.scrub().status();
    let running = status.running.map(|progress| {
        let ((objects, bytes), (total_objects, total_bytes)) = (progress.done(), progress.total());
        json!({"objects": objects, "bytes": bytes, "total_objects": total_objects, "total_bytes": total_bytes})
    });
    let (last, error) = match status.last {
        Some(Ok(report)) => (Some(report), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    json!({"running": running, "last": last, "error": error})
}
