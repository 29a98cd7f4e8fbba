//! The spans of a lookup: what it waited for can be told from its trace.

use std::sync::{Mutex, PoisonError};

use tracing::{Instrument as _, Subscriber, span};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
};
use weir::oci::Reference;
use weir_conformance::hub::{self, Spec};

use crate::mirror::support::{Bench, Change, lookup};

const ROOT: &str = "this test";

/// The names of the spans below [`ROOT`], each from the root on. Other tests of this process leave nothing here.
static SEEN: Mutex<Vec<Vec<&'static str>>> = Mutex::new(Vec::new());

struct Recorder;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, _: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let scope = context.span_scope(id).into_iter().flat_map(|scope| scope.from_root());
        let names: Vec<_> = scope.map(|span| span.name()).collect();
        if names.first() == Some(&ROOT) {
            SEEN.lock().unwrap_or_else(PoisonError::into_inner).push(names);
        }
    }
}

/// The flight lies in the request that leads it, and in the flight lie what it asked of upstream and of the disk.
#[tokio::test]
async fn a_trace_shows_the_flight_the_upstream_exchange_and_the_storage() {
    let subscriber = tracing_subscriber::registry().with(Recorder);
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let bench = Bench::start(hub::Settings::default(), Change::default()).await;
    let image = bench.hub.push(Spec::new("library/traced").tags(["1.0"])).unwrap();
    let (asker, tag) = (lookup("library/traced", &[]), "1.0".parse::<Reference>().unwrap());
    let work = async {
        bench.mirror.manifests.get(&asker, &tag).await.unwrap();
        let blob = image.platforms[0].layers[0].digest.parse().unwrap();
        bench.mirror.blobs.get(&asker, &blob, None).await.unwrap();
    };
    work.instrument(tracing::info_span!("this test")).await;
    let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for wanted in [&["flight"][..], &["flight", "upstream"], &["flight", "storage"], &["storage"]] {
        let wanted = [&[ROOT][..], wanted].concat();
        assert!(seen.contains(&wanted), "no {wanted:?} among {seen:?}");
    }
}
