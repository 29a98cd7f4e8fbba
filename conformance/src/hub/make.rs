//! Makes images: gzip'd tars of random bytes, configs, manifests and an index, all from the seed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::content::{Content, Sink, Tee, digest};
use super::image::{Blob, Image, Layer, Manifest, Media, Platform, Spec};
use super::program;

/// A layer that was made: its blob, and the digest of the tar inside.
#[derive(Clone, Debug)]
pub(super) struct BuiltLayer {
    digest: String,
    diff_id: String,
    content: Content,
}

/// Layers made before, by seed and size, so that a shared layer is made once.
pub(super) type Cache = HashMap<(u64, u64), BuiltLayer>;

/// Makes the image and all its blobs. Blocks.
pub(super) fn image(spec: &Spec, cache: &mut Cache, scratch: &Path) -> io::Result<(Image, Vec<(String, Content)>)> {
    if spec.platforms.is_empty() || (!spec.index && spec.platforms.len() != 1) {
        return Err(invalid("an image without an index has exactly one platform, one with an index at least one"));
    }
    let mut blobs = Vec::new();
    let mut platforms = Vec::new();
    for name in &spec.platforms {
        platforms.push(platform(spec, name, cache, scratch, &mut blobs)?);
    }
    if spec.index && !spec.attested.is_empty() {
        let attestations: Vec<Platform> = platforms.iter().map(|of| attestation(spec, of, &mut blobs)).collect();
        platforms.extend(attestations);
    }
    let root = if spec.index { index(spec, &platforms) } else { platforms[0].manifest.clone() };
    let image = Image { repository: spec.repository.clone(), tags: spec.tags.clone(), root, platforms };
    Ok((image, blobs))
}

fn platform(
    spec: &Spec,
    name: &str,
    cache: &mut Cache,
    scratch: &Path,
    blobs: &mut Vec<(String, Content)>,
) -> io::Result<Platform> {
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    for (position, layer) in spec.layers.iter().enumerate() {
        let made = make(spec, name, position, layer, cache, scratch)?;
        let media_type = spec.media.layer().to_owned();
        layers.push(Blob { digest: made.digest.clone(), media_type, size: made.content.size() });
        diff_ids.push(made.diff_id);
        blobs.push((made.digest, made.content));
    }
    let config = config(spec, name, &diff_ids);
    let config_blob =
        Blob { digest: digest(&config), media_type: spec.media.config().to_owned(), size: config.len() as u64 };
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": spec.media.manifest(),
        "config": descriptor(&config_blob),
        "layers": layers.iter().map(descriptor).collect::<Vec<_>>(),
    });
    if !spec.annotations.is_empty() {
        manifest["annotations"] = spec.annotations.iter().cloned().collect();
    }
    merge(&mut manifest, &spec.manifest);
    blobs.push((config_blob.digest.clone(), Content::Memory(config)));
    Ok(Platform {
        name: name.to_owned(),
        manifest: signed(spec.media.manifest(), &manifest),
        config: config_blob,
        layers,
    })
}

/// What the manifest of an attestation claims to be for.
const NO_PLATFORM: &str = "unknown/unknown";

/// The attestations of a platform, as BuildKit makes them: a manifest whose layers are statements.
fn attestation(spec: &Spec, of: &Platform, blobs: &mut Vec<(String, Content)>) -> Platform {
    let mut blob = |media_type: &str, value: &Value| {
        let bytes = pretty(value);
        let blob = Blob { digest: digest(&bytes), media_type: media_type.to_owned(), size: bytes.len() as u64 };
        blobs.push((blob.digest.clone(), Content::Memory(bytes)));
        blob
    };
    let statement = |predicate: &String| {
        json!({"_type": "https://in-toto.io/Statement/v0.1", "predicateType": predicate,
            "subject": [{"digest": {"sha256": of.manifest.digest.trim_start_matches("sha256:")}}]})
    };
    let layers: Vec<Blob> =
        spec.attested.iter().map(|predicate| blob("application/vnd.in-toto+json", &statement(predicate))).collect();
    let config = blob(Media::Oci.config(), &json!({"architecture": "unknown", "os": "unknown", "config": {}}));
    let described = layers.iter().zip(&spec.attested).map(|(layer, predicate)| {
        let mut described = descriptor(layer);
        described["annotations"] = json!({"in-toto.io/predicate-type": predicate});
        described
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": Media::Oci.manifest(),
        "config": descriptor(&config),
        "layers": described.collect::<Vec<_>>(),
    });
    Platform { name: NO_PLATFORM.to_owned(), manifest: signed(Media::Oci.manifest(), &manifest), config, layers }
}

fn index(spec: &Spec, platforms: &[Platform]) -> Manifest {
    let manifests: Vec<Value> = platforms
        .iter()
        .enumerate()
        .map(|(position, platform)| {
            let mut entry = json!({
                "mediaType": platform.manifest.media_type,
                "digest": platform.manifest.digest,
                "size": platform.manifest.bytes.len(),
            });
            entry["platform"] = platform_object(&platform.name);
            if platform.name == NO_PLATFORM {
                let of = &platforms[position - spec.platforms.len()];
                entry["annotations"] = json!({
                    "vnd.docker.reference.type": "attestation-manifest",
                    "vnd.docker.reference.digest": of.manifest.digest,
                });
            }
            entry
        })
        .collect();
    signed(spec.media.index(), &json!({"schemaVersion": 2, "mediaType": spec.media.index(), "manifests": manifests}))
}

/// `os/architecture[/variant]` as the object of the image spec.
fn platform_object(name: &str) -> Value {
    let mut parts = name.splitn(3, '/');
    let os = parts.next().unwrap_or_default();
    let mut platform = json!({"os": os, "architecture": parts.next().unwrap_or("amd64")});
    if let Some(variant) = parts.next() {
        platform["variant"] = variant.into();
    }
    platform
}

fn config(spec: &Spec, platform: &str, diff_ids: &[String]) -> Bytes {
    let mut config = platform_object(platform);
    config["created"] = "2026-01-01T00:00:00Z".into();
    config["config"] = json!({"Cmd": spec.command, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "WorkingDir": "/"});
    config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
    config["history"] = diff_ids
        .iter()
        .map(|_| json!({"created": "2026-01-01T00:00:00Z", "created_by": "weir-conformance"}))
        .collect::<Vec<_>>()
        .into();
    merge(&mut config, &spec.config);
    pretty(&config)
}

/// JSON Merge Patch (RFC 7396); null at the top is no patch.
fn merge(value: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else { return };
    for (key, patch) in patch {
        match patch {
            Value::Null => drop(value.as_object_mut().and_then(|object| object.remove(key))),
            Value::Object(_) if value[key].is_object() => merge(&mut value[key], patch),
            _ => value[key] = patch.clone(),
        }
    }
}

fn descriptor(blob: &Blob) -> Value {
    json!({"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size})
}

/// A manifest with these contents, under its digest.
pub(super) fn signed(media_type: &str, contents: &Value) -> Manifest {
    let bytes = pretty(contents);
    Manifest { digest: digest(&bytes), media_type: media_type.to_owned(), bytes }
}

/// Indented as Docker's own are, so that the digest shows a mirror that rewrites JSON.
fn pretty(value: &Value) -> Bytes {
    serde_json::to_vec_pretty(value).map(Bytes::from).unwrap_or_default()
}

fn make(
    spec: &Spec,
    platform: &str,
    position: usize,
    layer: &Layer,
    cache: &mut Cache,
    scratch: &Path,
) -> io::Result<BuiltLayer> {
    let (seed, size) = match layer {
        Layer::Random(size) => {
            let own = platform.bytes().fold(spec.seed, |seed, byte| mix(seed ^ u64::from(byte)));
            (mix(own ^ position as u64), *size)
        }
        Layer::Shared { seed, size } => (mix(*seed), *size),
        Layer::Tar(path) => {
            let mut gzip = Tee::new(GzEncoder::new(Sink::new(scratch), Compression::default()));
            io::copy(&mut File::open(path)?, &mut gzip)?;
            return finish(gzip);
        }
        Layer::Files(files) => {
            let gzip = Tee::new(GzEncoder::new(Sink::new(scratch), Compression::default()));
            let mut tar = tar::Builder::new(gzip);
            for (path, mode, contents) in files {
                tar.append_data(&mut header(contents.len() as u64, *mode), path, contents.as_bytes())?;
            }
            return finish(tar.into_inner()?);
        }
        Layer::Raw(bytes) => {
            let bytes = Bytes::from(bytes.clone());
            return Ok(BuiltLayer { digest: digest(&bytes), diff_id: digest(&bytes), content: Content::Memory(bytes) });
        }
    };
    if let Some(made) = cache.get(&(seed, size)) {
        return Ok(made.clone());
    }
    // Stored, not squeezed: random bytes do not compress, and a real gzip frame is made at the speed of its checksum.
    let gzip = Tee::new(GzEncoder::new(Sink::new(scratch), Compression::none()));
    let mut tar = tar::Builder::new(gzip);
    if position == 0 && matches!(layer, Layer::Random(_)) {
        let program = program::hello();
        tar.append_data(&mut header(program.len() as u64, 0o755), "hello", program.as_slice())?;
    }
    let random = Random { state: seed, word: [0; 8], used: 8 };
    tar.append_data(&mut header(size, 0o644), format!("layer-{seed:016x}"), random.take(size))?;
    let made = finish(tar.into_inner()?)?;
    cache.insert((seed, size), made.clone());
    Ok(made)
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(mode);
    // 2026-01-01: equal specs make equal bytes.
    header.set_mtime(1_767_225_600);
    header.set_entry_type(tar::EntryType::Regular);
    header
}

fn finish(tee: Tee<GzEncoder<Sink<'_>>>) -> io::Result<BuiltLayer> {
    let (diff_id, mut gzip) = tee.finish();
    gzip.flush()?;
    let (digest, content) = gzip.finish()?.finish()?;
    Ok(BuiltLayer { digest, diff_id, content })
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// One step of splitmix64.
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The endless random file.
struct Random {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Read for Random {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut rest = &mut *buffer;
        while !rest.is_empty() {
            if self.used == 8 {
                self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                self.word = mix(self.state).to_le_bytes();
                self.used = 0;
            }
            // What a word has over is kept, so that the sizes of the reads change nothing.
            let count = rest.len().min(8 - self.used);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&self.word[self.used..self.used + count]);
            self.used += count;
            rest = later;
        }
        Ok(buffer.len())
    }
}
