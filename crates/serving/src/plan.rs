//! Read plans: what a service or list of features needs fetched, compiled once a snapshot.
