//! `weir cache export`: images of a running Weir as an OCI image layout, in a directory, a tar, or a stream.
//!
//! The answer is a tar. It is read entry by entry as it passes, and every object is hashed: what reaches the output under its name at the
//! end is whole. Anything else is removed again, but what went to standard output.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{
    ask::{Admin, Ask},
    say,
};
use crate::{
    archive::{self, MOST_JSON},
    config::Config,
};

/// What to export, and where to.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Images, repositories, or patterns with a star: busybox:1.36, ghcr.io/acme/app, docker.io/acme/*
    #[arg(required = true)]
    names: Vec<String>,
    /// A directory that is made; a file when it ends in .tar; - for standard output
    #[arg(long, short, value_name = "PATH")]
    output: PathBuf,
    /// Only these platforms, such as linux/amd64,linux/arm64
    #[arg(long, value_delimiter = ',', value_name = "PLATFORM")]
    platform: Vec<String>,
    /// Leave out the blobs that were stored before: 2026-11-29T12:00:00Z, or 7d for the last seven days
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<SystemTime>,
    /// How the archive is written
    #[arg(long, value_enum, default_value = "oci")]
    format: Format,
    /// What only an account may read, too; every client may read it where it is imported
    #[arg(long)]
    private: bool,
    /// Why, for the audit
    #[arg(long, default_value = "")]
    reason: String,
    /// Print what was exported as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: Admin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// An OCI image layout
    Oci,
    /// The same, with what docker load reads; a single image of one platform
    DockerArchive,
}

/// A moment, or how long ago it was.
fn time(text: &str) -> Result<SystemTime, String> {
    if let Ok(at) = humantime::parse_rfc3339_weak(text) {
        return Ok(at);
    }
    let ago = humantime::parse_duration(text).ok().and_then(|ago| SystemTime::now().checked_sub(ago));
    ago.ok_or_else(|| "write a time, such as 2026-11-29T12:00:00Z, or how long ago, such as 7d".to_owned())
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), String> {
    let is_tar = arguments.output.extension().is_some_and(|ending| ending == "tar");
    if arguments.format == Format::DockerArchive && !is_tar && !arguments.is_stream() {
        return Err(format!("{}: a docker-archive is a tar; end the name in .tar", arguments.output.display()));
    }
    let ask = Ask::new(&arguments.admin, config)?;
    let answer = ask.download(&format!("/api/v1/cache/export?{}", arguments.query()))?;
    let exported = if arguments.is_stream() {
        receive(answer, |_, _| Ok(None), &mut io::stdout().lock())?
    } else {
        let partial = Partial::new(&arguments.output)?;
        let exported = if is_tar {
            let mut file = File::create_new(&partial.path).map_err(|error| at(&partial.path, &error))?;
            let exported = receive(answer, |_, _| Ok(None), &mut file)?;
            file.sync_all().map_err(|error| at(&partial.path, &error))?;
            exported
        } else {
            fs::create_dir(&partial.path).map_err(|error| at(&partial.path, &error))?;
            let create = |path: &str, _: u64| {
                let path = partial.path.join(path);
                path.parent().map_or(Ok(()), fs::create_dir_all)?;
                File::create_new(path).map(Some)
            };
            receive(answer, create, &mut io::sink())?
        };
        partial.keep(&arguments.output)?;
        exported
    };
    let text = if arguments.json { format!("{exported:#}\n") } else { told(&exported) };
    if arguments.is_stream() {
        // The archive is on standard output.
        eprint!("{text}");
        return Ok(());
    }
    say(&text)
}

impl Arguments {
    fn is_stream(&self) -> bool {
        self.output.as_os_str() == "-"
    }

    fn query(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for name in &self.names {
            query.append_pair("name", name);
        }
        if !self.platform.is_empty() {
            query.append_pair("platform", &self.platform.join(","));
        }
        if let Some(since) = self.since {
            query.append_pair("since", &humantime::format_rfc3339_seconds(since).to_string());
        }
        if self.format == Format::DockerArchive {
            query.append_pair("format", "docker-archive");
        }
        if self.private {
            query.append_pair("private", "true");
        }
        query.append_pair("reason", &self.reason);
        query.finish()
    }
}

fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// What is being written, beside the place where it will be. It is removed unless it is kept.
struct Partial {
    path: PathBuf,
    is_kept: bool,
}

impl Partial {
    fn new(output: &Path) -> Result<Partial, String> {
        let is_empty = fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_none());
        if output.exists() && !is_empty {
            return Err(format!("{}: there is something already; name another place, or remove it", output.display()));
        }
        let mut name =
            output.file_name().ok_or_else(|| format!("{}: name a file or a directory", output.display()))?.to_owned();
        name.push(format!(".partial-{}", std::process::id()));
        Ok(Partial { path: output.with_file_name(name), is_kept: false })
    }

    fn keep(mut self, output: &Path) -> Result<(), String> {
        fs::rename(&self.path, output).map_err(|error| at(output, &error))?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = if self.path.is_dir() { fs::remove_dir_all(&self.path) } else { fs::remove_file(&self.path) };
        }
    }
}

/// Passes on what it reads.
struct Tee<'a, R, W> {
    from: R,
    to: &'a mut W,
    count: u64,
}

impl<R: Read, W: Write> Read for Tee<'_, R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.to.write_all(&buffer[..count])?;
        self.count += count as u64;
        Ok(count)
    }
}

/// Reads the archive, which goes to `to` as it is and, file by file, to what `create` gives; hashes every object; and says what is in it.
fn receive<W: Write>(
    (length, answer): (Option<u64>, impl Read),
    create: impl Fn(&str, u64) -> io::Result<Option<File>>,
    to: &mut W,
) -> Result<Value, String> {
    let Some(length) = length else { return Err("the answer is no archive of weir: it has no length".to_owned()) };
    let mut archive = tar::Archive::new(Tee { from: answer, to, count: 0 });
    let (mut index, mut objects, mut bytes, mut last) = (Vec::new(), 0_u64, 0_u64, "its beginning".to_owned());
    let ended = |last: &str, error: &io::Error| {
        format!("the export failed at {last}: {error}; the log of weir says why, and nothing of it is kept")
    };
    for entry in archive.entries().map_err(|error| ended(&last, &error))? {
        let mut entry = entry.map_err(|error| ended(&last, &error))?;
        let path = entry.path_bytes().into_owned();
        let path = archive::clean(&path)?.to_owned();
        last.clone_from(&path);
        let size = entry.size();
        let digest = archive::blob_of(&path);
        if digest.is_none() && size > MOST_JSON {
            return Err(format!("{path} has {size} bytes, which none of weir's has"));
        }
        let mut file = create(&path, size).map_err(|error| format!("{path}: {error}"))?;
        let (mut hasher, mut buffer, mut left) =
            (digest.as_ref().map(|it| it.algorithm().hasher()), vec![0; 256 << 10], size);
        while left > 0 {
            let count = entry.read(&mut buffer).map_err(|error| ended(&path, &error))?;
            if count == 0 {
                return Err(ended(&path, &io::ErrorKind::UnexpectedEof.into()));
            }
            left -= count as u64;
            hasher.iter_mut().for_each(|hasher| hasher.update(&buffer[..count]));
            if let Some(file) = &mut file {
                file.write_all(&buffer[..count]).map_err(|error| format!("{path}: {error}"))?;
            }
            if path == "index.json" {
                index.extend_from_slice(&buffer[..count]);
            }
        }
        if let (Some(digest), Some(hasher)) = (digest, hasher) {
            if hasher.finish() != digest {
                return Err(format!("{digest} does not match its digest; nothing of the export is kept"));
            }
            objects += 1;
            bytes += size;
        }
    }
    let mut tee = archive.into_inner();
    io::copy(&mut tee, &mut io::sink()).map_err(|error| ended("its end", &error))?;
    if tee.count != length {
        return Err(ended(&last, &io::Error::other(format!("{} of {length} bytes came", tee.count))));
    }
    tee.to.flush().map_err(|error| error.to_string())?;
    let images: Vec<Value> = archive::listed(&index)?
        .iter()
        .map(|image| {
            let platforms = image.annotations.get(archive::PLATFORMS);
            json!({"name": image.name(), "digest": image.digest.to_string(), "platforms": platforms})
        })
        .collect();
    Ok(json!({"images": images, "objects": objects, "bytes": bytes}))
}

fn told(exported: &Value) -> String {
    let images = exported["images"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut text = String::new();
    for image in images {
        text += image["name"].as_str().unwrap_or("-");
        if let Some(platforms) = image["platforms"].as_str() {
            text += &format!(": {platforms} of it; its index names more");
        }
        text.push('\n');
    }
    let count = |key: &str| exported[key].as_u64().unwrap_or_default();
    text + &format!("{} exported: {} objects, {} bytes\n", images.len(), count("objects"), count("bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_moment_or_how_long_ago_it_was() {
        assert_eq!(time("1970-01-01T00:00:01Z").unwrap(), SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1));
        assert!(time("7d").unwrap() < SystemTime::now());
        assert!(time("yesterday").unwrap_err().contains("how long ago"));
    }
}
