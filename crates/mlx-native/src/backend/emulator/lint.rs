//! Pointers that leave their address space.
//!
//! The compiled kernels have flat memory, so a `device` that is missing goes unnoticed there. This pass keeps the
//! keywords: to clang they are numbered address spaces, vectors its own, and the library is unknown. Most of what it
//! then says is noise about names it cannot know; what it says about pointers between spaces is the finding. Casts in
//! the style of C are legal between spaces for it, so those are looked at token by token.

use super::{Emulator, EmulatorError};
use crate::kernel::msl::casts;
use crate::kernel::msl::rewrite::{self, Options, Target};

/// A pointer of one address space where another is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LintFinding {
    /// File of the text.
    pub file: String,
    /// Line in it.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for LintFinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// What clang says when a pointer goes where it does not belong.
const TELLING: [&str; 12] = [
    "cannot initialize a variable",
    "cannot initialize a parameter",
    "cannot initialize an object",
    "cannot initialize return object",
    "cannot initialize an array element",
    "cannot initialize a member",
    "assigning to",
    "passing",
    "incompatible",
    "static_cast from",
    "reinterpret_cast from",
    "no matching function for call",
];

impl Emulator {
    /// Looks for pointers that leave their address space. `file` is what the text is called where it has no `#line`.
    ///
    /// # Errors
    /// Text that cannot be read; a compiler that does not run.
    pub fn lint(&self, source: &str, file: &str) -> Result<Vec<LintFinding>, EmulatorError> {
        let options = Options {
            target: Target::AddressSpaces,
            file,
            constants: &[],
        };
        let rewritten = rewrite::rewrite(source, &options).map_err(EmulatorError::Msl)?;
        let outcome = self.toolchain.check(&(ground() + &rewritten.text))?;
        let lines: Vec<&str> = outcome.messages.lines().collect();
        let mut findings = Vec::new();
        for (i, line) in lines.iter().enumerate() {
            let Some((place, message)) = line.split_once(" error: ") else {
                continue;
            };
            if !TELLING.iter().any(|t| message.contains(t)) {
                continue;
            }
            let notes = lines[i + 1..].iter().take_while(|l| l.contains(" note: "));
            if !speaks_of_spaces(message) && !notes.into_iter().any(|n| n.contains("address space")) {
                continue;
            }
            let mut parts = place.trim_end_matches(':').rsplitn(3, ':').skip(1);
            let number = parts.next().and_then(|n| n.parse().ok()).unwrap_or(0);
            let file = parts.next().unwrap_or(file).to_owned();
            findings.push(LintFinding {
                file,
                line: number,
                message: plain(message),
            });
        }
        for cast in casts::between_spaces(source).map_err(EmulatorError::Msl)? {
            let file = if cast.file.is_empty() {
                file.to_owned()
            } else {
                cast.file
            };
            findings.push(LintFinding {
                file,
                line: cast.line,
                message: cast.message,
            });
        }
        findings.dedup();
        Ok(findings)
    }
}

/// A pointer type with a space: by number, or by the macro that gave it.
fn speaks_of_spaces(message: &str) -> bool {
    let named = SPACES.iter().any(|(name, _)| {
        message
            .split(|c: char| !c.is_alphanumeric())
            .any(|word| word == *name)
    });
    message.contains('*') && (named || message.contains("address_space") || message.contains("address space"))
}

/// Clang's words with MSL's names for the spaces.
fn plain(message: &str) -> String {
    SPACES.iter().fold(message.to_owned(), |text, (name, number)| {
        text.replace(&format!("__attribute__((address_space({number})))"), name)
    })
}

const SPACES: [(&str, u32); 3] = [("device", 1), ("constant", 2), ("threadgroup", 3)];

/// Keywords and types, nothing more.
fn ground() -> String {
    let mut text = String::from("#define thread\n#define kernel\n");
    for (name, number) in SPACES {
        text += &format!("#define {name} __attribute__((address_space({number})))\n");
    }
    let integers = [
        ("uchar", "unsigned char"),
        ("ushort", "unsigned short"),
        ("uint", "unsigned int"),
        ("ulong", "unsigned long"),
        ("half", "_Float16"),
        ("bfloat", "__bf16"),
        ("int8_t", "signed char"),
        ("uint8_t", "unsigned char"),
        ("int16_t", "short"),
        ("uint16_t", "unsigned short"),
        ("int32_t", "int"),
        ("uint32_t", "unsigned int"),
        ("int64_t", "long"),
        ("uint64_t", "unsigned long"),
        ("size_t", "unsigned long"),
    ];
    for (name, ty) in integers {
        text += &format!("typedef {ty} {name};\n");
    }
    text +=
        "namespace metal {\ntemplate <class T, int N> using vec = T __attribute__((ext_vector_type(N)));\n";
    let elements = [
        "char", "uchar", "short", "ushort", "int", "uint", "long", "ulong", "half", "bfloat", "float",
    ];
    for element in elements {
        for n in 2..=4 {
            text += &format!("typedef {element} {element}{n} __attribute__((ext_vector_type({n})));\n");
        }
    }
    text += "}\nusing namespace metal;\n";
    text
}
