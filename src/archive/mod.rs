//! Images as a file: an OCI image layout (image-spec 1.1) in a tar, to carry them to a site without a network. Pure.
//!
//! # What an export guarantees
//! * Every manifest and blob has been hashed while it was sent. The last piece of an object goes out when its digest matches, and the
//!   end of the archive when all have: an archive that ended early has no end, and never looks whole.
//! * Manifests keep their bytes and digests, an index too of which only some platforms are in the archive; the annotation
//!   [`PLATFORMS`] names these then. Each object is there once. The same content gives the same bytes.
//! * `index.json` names each image by its full name, `docker.io/library/busybox:1.36`, in both annotations that tools read.
//!
//! # What it refuses
//! An image of which something is missing; private content of an account, unless the operator asks for that too.
//!
//! # What an import guarantees
//! * Every blob and manifest is hashed before anything names it. A name is given to all of an image or to nothing of it.
//! * What it wrote and no image needs is removed again, however it ends but by a kill; then eviction takes it.
//!
//! # What it refuses
//! An archive that is no layout: other files, links, paths that leave it, an object twice, no end. An image that lacks an object, has a
//! damaged one, a wrong size or an unknown media type, or whose name has no upstream here or one that its operator does not mirror.

mod frame;
mod layout;

pub use self::{
    frame::{BLOCK, END, header, padding},
    layout::{Listed, MOST_JSON, NAME, PLATFORMS, REF_NAME, VERSION, blob_of, blob_path, clean, docker, index, listed},
};
