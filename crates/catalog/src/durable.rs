//! A local file system whose writes survive a power cut.
//!
//! object_store's own gives a file its name before its bytes are on disk, and
//! syncs neither. Here a put writes and syncs a staged file first, links it to
//! its name and syncs the folder, so a name never shows half an object;
//! copies, renames and multipart uploads are synced before they return. What a
//! put may not do (attributes, updates) it refuses as the wrapped store does.
//!
//! Staged files are named `<name>#<digits>`: the wrapped store hides such names.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result, UploadPart,
};

const STORE: &str = "DurableLocal";

/// [`LocalFileSystem`], synced.
#[derive(Debug, Clone)]
pub struct DurableLocal {
    inner: Arc<LocalFileSystem>,
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE}({})", self.inner)
    }
}

impl Default for DurableLocal {
    fn default() -> Self {
        Self::new()
    }
}

impl DurableLocal {
    /// The whole file system: paths are absolute, without the first `/`.
    pub fn new() -> Self {
        Self {
            inner: Arc::new(LocalFileSystem::new()),
        }
    }

    /// Everything below a folder, which must exist.
    pub fn new_with_prefix(folder: impl AsRef<FilePath>) -> Result<Self> {
        Ok(Self {
            inner: Arc::new(LocalFileSystem::new_with_prefix(folder)?),
        })
    }

    async fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        tokio::task::spawn_blocking(work)
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(generic)
    }

    /// Syncs an object that has its name already, and the folder that holds it.
    async fn sync(&self, location: &Path) -> Result<()> {
        let path = self.inner.path_to_filesystem(location)?;
        Self::blocking(move || {
            File::open(&path)?.sync_all()?;
            sync_folder_of(&path)
        })
        .await
    }
}

fn generic(source: io::Error) -> Error {
    Error::Generic {
        store: STORE,
        source: Box::new(source),
    }
}

/// A folder's entries are on disk once the folder is synced.
fn sync_folder_of(path: &FilePath) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Makes missing folders, each synced into the one above it.
fn make_folders(folder: &FilePath) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_folders(above)?;
    }
    match fs::create_dir(folder) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
        _ => sync_folder_of(folder),
    }
}

/// A new file beside `path`, unseen by listings.
fn stage(path: &FilePath) -> io::Result<(File, PathBuf)> {
    for number in 1_u64.. {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("#{number}"));
        let staged = PathBuf::from(name);
        match OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&staged)
        {
            Ok(file) => return Ok((file, staged)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

fn put(path: &FilePath, payload: &PutPayload, create: bool) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        make_folders(folder)?;
    }
    let (mut file, staged) = stage(path)?;
    let written = payload
        .iter()
        .try_for_each(|part| file.write_all(part))
        .and_then(|()| file.sync_all())
        .and_then(|()| match create {
            true => fs::hard_link(&staged, path),
            false => fs::rename(&staged, path),
        });
    if create || written.is_err() {
        // A staged file that stays is unseen; the next put takes another number.
        let _ = fs::remove_file(&staged);
    }
    written.and_then(|()| sync_folder_of(path))
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return self.inner.put_opts(location, payload, options).await,
        };
        if !options.attributes.is_empty() {
            return self.inner.put_opts(location, payload, options).await;
        }
        let path = self.inner.path_to_filesystem(location)?;
        let named = path.display().to_string();
        let done = tokio::task::spawn_blocking(move || put(&path, &payload, create))
            .await
            .map_err(io::Error::other)
            .flatten();
        match done {
            Err(e) if create && e.kind() == ErrorKind::AlreadyExists => {
                return Err(Error::AlreadyExists {
                    path: named,
                    source: Box::new(e),
                });
            }
            other => other.map_err(generic)?,
        }
        // The wrapped store alone knows how it makes an ETag.
        let head = GetOptions::new().with_head(true);
        let meta = self.inner.get_opts(location, head).await?.meta;
        Ok(PutResult {
            e_tag: meta.e_tag,
            version: meta.version,
        })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let path = self.inner.path_to_filesystem(location)?;
        Self::blocking(move || path.parent().map_or(Ok(()), make_folders)).await?;
        Ok(Box::new(DurableUpload {
            inner: self.inner.put_multipart_opts(location, options).await?,
            store: self.clone(),
            location: location.clone(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    /// Not synced: whatever comes back after a power cut was deletable, and is again.
    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.sync(to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await?;
        self.sync(to).await?;
        let from = self.inner.path_to_filesystem(from)?;
        Self::blocking(move || sync_folder_of(&from)).await
    }
}

/// A multipart upload that is synced when it completes.
#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    store: DurableLocal,
    location: Path,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.inner.complete().await?;
        self.store.sync(&self.location).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
