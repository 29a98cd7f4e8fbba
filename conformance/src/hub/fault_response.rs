//! The response of a fault that takes the place of a good one.

use super::content::digest;
use super::exchange::Exchange;
use super::fault::What;
use super::pulls::Source;
use super::requester::{Requester, out_of_pulls};
use super::response::{Body, Response};
use super::shared::Shared;

/// The answer of a fault that takes the place of a good one.
pub(super) fn faulty(shared: &Shared, exchange: &Exchange, what: &What) -> Response {
    match what {
        What::Abuse(retry_after) => Response::abuse(*retry_after),
        What::Status(429) => Response::error(429, "TOOMANYREQUESTS", "too many requests"),
        What::Status(status) | What::TokenStatus(status) if *status < 500 => {
            Response::error(*status, "DENIED", "refused by a fault of the hub")
        }
        What::Status(status) | What::TokenStatus(status) => {
            Response::error(*status, "UNAVAILABLE", "broken by a fault of the hub")
        }
        What::Html => {
            Response::new(200).body("text/html; charset=utf-8", "<html><body><h1>It works!</h1></body></html>\n")
        }
        What::NoHead => Response::error(405, "UNSUPPORTED", "The operation is unsupported."),
        What::RedirectLoop => Response::redirect(format!("http://{}/loop/1", exchange.cdn_authority)),
        What::RedirectPrivate => Response::redirect("http://169.254.169.254/latest/meta-data/"),
        What::RedirectEvil => {
            Response::redirect(format!("http://{}{}", shared.hostile_address, exchange.request.path()))
        }
        What::PullLimit(retry_after) => {
            let source = Source::of(exchange.from.ip());
            out_of_pulls(&Requester { source, limit: None, account: None }, retry_after.clone())
        }
        What::Endless(size) => {
            let answer = Response::new(200)
                .with("Content-Type", "application/vnd.oci.image.index.v1+json")
                .with("Docker-Content-Digest", digest(b"endless"));
            Response { body: Body::Blanks(*size), ..answer }
        }
        _ => Response::error(500, "UNKNOWN", "a fault that is not an answer"),
    }
}
