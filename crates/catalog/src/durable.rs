//! A local file system whose puts survive a power cut: file and folder are
//! synced before a put returns, which object_store's own does not do.
