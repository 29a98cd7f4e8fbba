//! Sockets, TLS, and the bytes of HTTP/1.1 below actix-http: all that leans on how actix-http works inside.
//!
//! # What is relied on
//!
//! actix-http documents none of this, so the lock file pins it, and each line has a test that fails when it changes.
//!
//! 1. The dispatcher writes all it has and then calls `poll_flush`: the head of a response is out before a transfer begins, and the
//!    next response begins after it. (`files_and_small_bodies_follow_each_other_on_one_connection`)
//! 2. A body of unknown size with `no_chunking` and a `Content-Length` of ours is neither counted nor chunked, and does not close
//!    the connection. (`files_and_small_bodies_follow_each_other_on_one_connection`)
//! 3. A response to HEAD writes the length of the body that it is given and no byte of it.
//!    (`a_head_promises_the_length_of_the_entity_and_sends_no_body`)
//! 4. A body that is pending is polled again when the task is woken. (`a_follower_gets_what_has_arrived_and_waits_for_the_rest`)
//! 5. A response is encoded by the flags of the request that was decoded last, so that only one may be handed up at a time.
//!    (`pipelined_requests_are_answered_in_order_each_by_its_own_method`)
//! 6. `poll_read` may return `Pending` without a waker: it is called again after a wake-up by `poll_flush`.
//!    (`an_answer_is_with_the_kernel_before_the_next_request_is_read`)
//! 7. A head ends where httparse says. (`a_head_ends_where_the_parser_says`)
//! 8. A body ends where `body_length.rs` says. (`every_form_of_a_push_ends_in_the_same_blob_and_all_of_them_on_one_connection`)
//! 9. What is written while no request is under way is an answer of actix-http's own, with its status in the bytes 9 to 12.
//!    (`what_is_refused_before_a_handler_sees_it_is_answered_in_json_and_counted`)
//! 10. `100 Continue` is the beginning of a write, after the service was called. (`a_push_that_is_refused_is_refused_before_its_body`)
//! 11. A request whose body is not read to its end is the last on its connection. (`a_body_that_no_handler_reads_is_not_waited_for`)
//! 12. An error of `poll_read` or `poll_flush` closes the connection and drops the response's body.
//!     (`a_body_that_ends_early_closes_the_connection`, `a_client_that_leaves_ends_its_turn`)
//! 13. The signal of the drain closes idle connections and no other. (`a_drain_closes_the_idle_at_once_and_lets_bodies_finish`)
//! 14. The head of the first request and the pause between two are timed. (`a_head_that_does_not_end_closes_the_connection_on_every_request`)
//! 15. What is ambiguous is refused: two lengths, a length and chunks, a folded header. (`what_could_smuggle_a_request_is_refused_and_ends_the_connection`)

mod body_length;
mod connection;
mod connection_limit;
mod head_end;
mod protocol_error;
mod sendfile;
mod server;
mod stall_timer;
mod state;
mod stream;
mod tls;
mod upgrade;
mod validity;

pub(crate) use self::{
    body_length::BodyLength,
    protocol_error::{ProtocolError, Refuse},
    sendfile::Transfer,
    server::start,
    state::ConnectionState,
};
pub use self::{
    server::{Listener, Serving},
    tls::{Certificate, Prepared},
};

#[cfg(test)]
mod tests {
    #[test]
    fn every_line_of_the_list_names_tests_that_exist() {
        let sources = [
            include_str!("head_end.rs"),
            include_str!("server/tests.rs"),
            include_str!("server/tests/refusals.rs"),
            include_str!("../tests/front.rs"),
            include_str!("../tests/pushes.rs"),
        ];
        let list = include_str!("mod.rs").split("# What is relied on").nth(1).unwrap();
        let list = list.split("mod body_length").next().unwrap();
        let named = list.split('`').skip(1).step_by(2).filter(|word| word.matches('_').count() > 3);
        let named: Vec<&str> = named.collect();
        assert!(named.len() >= 15, "{named:?}");
        for test in named {
            assert!(sources.iter().any(|source| source.contains(&format!("fn {test}("))), "{test} is no test");
        }
    }
}
