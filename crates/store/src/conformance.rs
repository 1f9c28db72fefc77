//! The public conformance suite: what every [`OnlineStore`](crate::OnlineStore) must do.
