//! The program in every image: a static x86-64 ELF of 190 bytes that says hello, so that a pulled image can be run.

const BASE: u64 = 0x40_0000;
const HEADERS: usize = 64 + 56;
const CODE: usize = 33;

/// The bytes of the executable file.
pub(super) fn hello() -> Vec<u8> {
    let text = b"Hello from the hub of weir-conformance.\n";
    let size = (HEADERS + CODE + text.len()) as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\x00\0\0\0\0\0\0\0\0".to_vec();
    // Type EXEC, machine x86-64, version 1.
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    // Entry point, offset of the program header, no section headers.
    for word in [BASE + HEADERS as u64, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    // Flags, size of this header, size and number of program headers, no sections.
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    // One segment to LOAD, readable and executable: the whole file.
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0xb8, 1, 0, 0, 0]); // mov eax, SYS_write
    elf.extend([0xbf, 1, 0, 0, 0]); // mov edi, 1
    elf.extend([0x48, 0x8d, 0x35, 16, 0, 0, 0]); // lea rsi, [rip + 16], the text
    elf.extend([0xba, text.len() as u8, 0, 0, 0]); // mov edx, its length
    elf.extend([0x0f, 0x05]); // syscall
    elf.extend([0xb8, 60, 0, 0, 0]); // mov eax, SYS_exit
    elf.extend([0x31, 0xff, 0x0f, 0x05]); // xor edi, edi; syscall
    elf.extend(text);
    elf
}

#[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_program_runs_and_says_hello() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hello");
        std::fs::write(&path, super::hello()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let output = std::process::Command::new(&path).output().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, b"Hello from the hub of weir-conformance.\n");
    }
}
