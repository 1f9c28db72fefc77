//! The one way into the online store: committed offline rows, encoded and joined in.
