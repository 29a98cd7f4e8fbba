//! The frame of a tar archive: a header for each file, zeros up to the next block, and an end.

use tar::{EntryType, Header};

/// A tar consists of blocks of so many bytes.
pub const BLOCK: u64 = 512;

/// The end of an archive: two blocks of zeros.
pub const END: [u8; 1024] = [0; 1024];

/// The header of a regular file. It has no time and no owner, so that the same content is the same archive.
///
/// # Errors
/// When the path does not fit into a header of the oldest format, which every reader knows: 100 bytes.
pub fn header(path: &str, size: u64) -> std::io::Result<[u8; BLOCK as usize]> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_path(path)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// Zeros that follow a file of `size` bytes.
pub fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK) - size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_any_size_is_read_back_from_its_header() {
        for size in [0, 1, 511, 512, 513, 8 << 30, 1 << 40] {
            let block = header("blobs/sha256/0", size).unwrap();
            let read = Header::from_byte_slice(&block);
            assert_eq!(read.entry_size().unwrap(), size);
            assert_eq!((size + padding(size)) % BLOCK, 0);
        }
        assert!(header(&"a".repeat(300), 1).is_err());
    }
}
