//! `weir cache import`: images from an OCI image layout, be it a directory, a tar, or standard input, into a running Weir.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::Value;

use super::{
    ask::{Admin, Ask},
    say,
};
use crate::{
    archive::{self, END},
    config::Config,
};

/// What to import.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A directory or a tar with an OCI image layout; - for standard input
    path: PathBuf,
    /// The full name of the only image, such as docker.io/library/busybox:1.36, when the layout gives it none
    #[arg(long)]
    name: Option<String>,
    /// Why, for the audit
    #[arg(long, default_value = "")]
    reason: String,
    /// Print what the API answers, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: Admin,
}

pub(super) fn run(arguments: &Arguments, config: &Config) -> Result<(), String> {
    let path = &arguments.path;
    let failed = |error: &io::Error| format!("{}: {error}", path.display());
    let mut body: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else if path.is_dir() {
        Box::new(Layout::new(path)?)
    } else {
        Box::new(File::open(path).map_err(|error| failed(&error))?)
    };
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(arguments.name.iter().map(|name| ("name", name))).append_pair("reason", &arguments.reason);
    let ask = Ask::new(&arguments.admin, config)?;
    let answer = ask.upload(&format!("/api/v1/cache/import?{}", query.finish()), "application/x-tar", &mut body)?;
    say(&if arguments.json { format!("{answer:#}\n") } else { told(&answer) })?;
    let images = answer["images"].as_array().map(Vec::as_slice).unwrap_or_default();
    match images.iter().filter(|image| image["imported"] != true).count() {
        0 => Ok(()),
        1 => Err(format!("1 of {} images was refused", images.len())),
        refused => Err(format!("{refused} of {} images were refused", images.len())),
    }
}

fn told(answer: &Value) -> String {
    let images = answer["images"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut text = String::new();
    for image in images {
        let name =
            image["name"].as_str().filter(|name| !name.is_empty()).or(image["digest"].as_str()).unwrap_or_default();
        let platforms = image["platforms"].as_array().map(Vec::as_slice).unwrap_or_default();
        let platforms: Vec<&str> = platforms.iter().filter_map(Value::as_str).collect();
        text += &match (image["refused"].as_str(), platforms.is_empty()) {
            (Some(why), _) => format!("{name}: refused: {why}\n"),
            (None, _) if image["kept"].is_string() => {
                format!("{name}: imported; {}\n", image["kept"].as_str().unwrap_or_default())
            }
            (None, true) => format!("{name}: imported\n"),
            (None, false) => format!("{name}: imported; {} of it, its index names more\n", platforms.join(", ")),
        };
    }
    let count = |key: &str| answer[key].as_u64().unwrap_or_default();
    text + &format!(
        "{} objects, {} bytes; {} of them are new here\n",
        count("objects"),
        count("bytes"),
        count("stored")
    )
}

/// A layout in a directory, as the tar that it would be: first what names the images, then the objects in byte order.
struct Layout {
    root: PathBuf,
    /// Paths that are still to come, the next one last.
    todo: Vec<PathBuf>,
    now: Box<dyn Read>,
    has_ended: bool,
}

impl Layout {
    fn new(root: &Path) -> Result<Layout, String> {
        let failed = |path: &Path, error: &io::Error| format!("{}: {error}", path.display());
        let mut todo: Vec<PathBuf> = ["oci-layout", "index.json"].map(PathBuf::from).into();
        if let Some(missing) = todo.iter().find(|path| !root.join(path).is_file()) {
            return Err(format!("{}: there is no {}: this is no OCI image layout", root.display(), missing.display()));
        }
        let blobs = root.join("blobs");
        for algorithm in names(&blobs).map_err(|error| failed(&blobs, &error))? {
            let directory = blobs.join(&algorithm);
            for name in names(&directory).map_err(|error| failed(&directory, &error))? {
                todo.push(Path::new("blobs").join(&algorithm).join(name));
            }
        }
        todo.reverse();
        Ok(Layout { root: root.to_owned(), todo, now: Box::new(io::empty()), has_ended: false })
    }

    /// The header, the contents and the zeros of the next file.
    fn next(&mut self) -> io::Result<Option<Box<dyn Read>>> {
        let Some(path) = self.todo.pop() else {
            let end = (!std::mem::replace(&mut self.has_ended, true)).then(|| Box::new(&END[..]) as Box<dyn Read>);
            return Ok(end);
        };
        let full = self.root.join(&path);
        let named = |error: io::Error| io::Error::other(format!("{}: {error}", full.display()));
        // A link could lead to any file of who imports.
        if !fs::symlink_metadata(&full).map_err(named)?.is_file() {
            return Err(named(io::Error::other("it is a link or no regular file")));
        }
        let file = File::open(&full).map_err(named)?;
        let size = file.metadata().map_err(named)?.len();
        let header = archive::header(&path.to_string_lossy(), size).map_err(named)?;
        let padding = io::repeat(0).take(archive::padding(size));
        Ok(Some(Box::new(io::Cursor::new(header).chain(file.take(size)).chain(padding))))
    }
}

impl Read for Layout {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.now.read(buffer)? {
                0 => match self.next()? {
                    Some(next) => self.now = next,
                    None => return Ok(0),
                },
                count => return Ok(count),
            }
        }
    }
}

/// What is in a directory, in byte order.
fn names(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names =
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}
