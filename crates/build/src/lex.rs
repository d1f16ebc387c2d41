//! From text to instructions: lines joined, comments dropped, here-documents taken in.
//!
//! Written here because the parsers to be had either do not know here-documents inside a command
//! (`RUN cat <<EOF >file`) or pass over what they do not know.

use crate::{DockerfileError, expand::split_words};

/// The most lines of a Dockerfile, and the most bytes.
const MAX_BYTES: usize = 1 << 20;

/// An instruction, not understood yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raw {
    /// Where it begins, from 1.
    pub(crate) line: usize,
    /// Its name in capitals.
    pub(crate) name: String,
    /// What follows, trimmed, in one line.
    pub(crate) rest: String,
    /// Its here-documents, in order.
    pub(crate) documents: Vec<Document>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    /// The word that ends it.
    pub(crate) word: String,
    /// Its lines, each with its newline.
    pub(crate) text: String,
    /// The same as it stands, for a shell that reads it itself.
    pub(crate) verbatim: String,
    /// Whether variables in it are replaced.
    pub(crate) expands: bool,
}

/// What is read.
pub(crate) struct Lexed {
    pub(crate) instructions: Vec<Raw>,
    /// What takes the meaning from the character that follows, and joins lines.
    pub(crate) escape: char,
}

/// Reads instructions.
pub(crate) fn lex(text: &str) -> Result<Lexed, DockerfileError> {
    if text.len() > MAX_BYTES {
        let said = format!("it has {} bytes; at most {MAX_BYTES} are read", text.len());
        return Err(DockerfileError::new(1, said));
    }
    if let Some(at) = text.find('\0') {
        let line = text[..at].matches('\n').count() + 1;
        return Err(DockerfileError::new(line, "it holds a NUL; a Dockerfile is text"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line)).peekable();
    let escape = directives(&mut lines)?;
    let mut instructions = Vec::new();
    while let Some((line, first)) = lines.next() {
        if is_blank(first) {
            continue;
        }
        let joined = join(first, &mut lines, escape);
        let (name, rest) = joined.split_once(char::is_whitespace).unwrap_or((&joined, ""));
        let mut raw = Raw {
            line,
            name: name.to_ascii_uppercase(),
            rest: rest.trim().to_owned(),
            documents: Vec::new(),
        };
        if matches!(raw.name.as_str(), "RUN" | "COPY" | "ADD") && !raw.rest.starts_with('[') {
            raw.documents = documents(&raw, &mut lines, escape)?;
        }
        instructions.push(raw);
    }
    Ok(Lexed { instructions, escape })
}

type Lines<'a, I> = std::iter::Peekable<I>;

/// Reads the directives that a file may begin with; of those, one changes how it is read.
fn directives<'a, I: Iterator<Item = (usize, &'a str)>>(
    lines: &mut Lines<'a, I>,
) -> Result<char, DockerfileError> {
    let mut escape = '\\';
    while let Some((line, text)) = lines.peek().copied() {
        let Some((key, value)) =
            text.trim().strip_prefix('#').and_then(|comment| comment.split_once('='))
        else {
            break;
        };
        match key.trim().to_ascii_lowercase().as_str() {
            "escape" => {
                escape = match value.trim() {
                    "\\" => '\\',
                    "`" => '`',
                    other => {
                        let said = format!("`escape={other}`: it is \\ or `");
                        return Err(DockerfileError::new(line, said));
                    }
                }
            }
            "syntax" | "check" => {}
            _ => break,
        }
        lines.next();
    }
    Ok(escape)
}

fn is_blank(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

/// Joins lines as long as one ends in the escape character. Comments and empty lines between them
/// count for nothing.
fn join<'a, I: Iterator<Item = (usize, &'a str)>>(
    first: &str,
    lines: &mut Lines<'a, I>,
    escape: char,
) -> String {
    let mut joined = first.trim_start().to_owned();
    while let Some(open) = joined.trim_end().strip_suffix(escape) {
        joined.truncate(open.len());
        match lines.find(|(_, line)| !is_blank(line)) {
            Some((_, next)) => joined.push_str(next),
            None => break,
        }
    }
    joined.trim_end().to_owned()
}

fn documents<'a, I: Iterator<Item = (usize, &'a str)>>(
    raw: &Raw,
    lines: &mut Lines<'a, I>,
    escape: char,
) -> Result<Vec<Document>, DockerfileError> {
    if !raw.rest.contains("<<") {
        return Ok(Vec::new());
    }
    let mut documents = Vec::new();
    for word in split_words(&raw.rest, escape) {
        let Some(start) = Start::parse(&word) else { continue };
        let mut document = Document {
            word: start.word.to_owned(),
            text: String::new(),
            verbatim: String::new(),
            expands: start.expands,
        };
        loop {
            let Some((_, line)) = lines.next() else {
                let said = format!("the here-document `{}` has no end", start.word);
                return Err(DockerfileError::new(raw.line, said));
            };
            document.verbatim.push_str(line);
            document.verbatim.push('\n');
            let line = if start.strips_tabs { line.trim_start_matches('\t') } else { line };
            if line == start.word {
                break;
            }
            document.text.push_str(line);
            document.text.push('\n');
        }
        documents.push(document);
    }
    Ok(documents)
}

/// The beginning of a here-document: `<<EOF`, `<<-EOF`, `<<"EOF"`.
struct Start<'a> {
    word: &'a str,
    strips_tabs: bool,
    expands: bool,
}

// === impl Start ===

impl<'a> Start<'a> {
    fn parse(word: &'a str) -> Option<Self> {
        let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
        let (strips_tabs, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let quoted = |quote: char| rest.strip_prefix(quote)?.strip_suffix(quote);
        let (expands, word) = match quoted('"').or_else(|| quoted('\'')) {
            Some(word) => (false, word),
            None => (true, rest),
        };
        let good = !word.is_empty() && !word.contains(['<', '"', '\'', '$', '>', '|', ';', '&']);
        good.then_some(Self { word, strips_tabs, expands })
    }
}

/// Says whether a word begins a here-document.
pub(crate) fn begins_document(word: &str) -> bool {
    Start::parse(word).is_some()
}
