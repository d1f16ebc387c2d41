//! Where functions begin and end.

use std::ops::Range;

use super::mask::is_word;

/// A function with a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Function {
    /// Its name.
    pub(super) name: String,
    /// Its bytes, from `fn` to the brace that closes its body.
    pub(super) bytes: Range<usize>,
}

/// Lists the functions of masked code, outer ones before those within.
pub(super) fn functions(code: &str) -> Vec<Function> {
    let bytes = code.as_bytes();
    let starts = words(code, "fn");
    starts.filter_map(|start| function_at(code, bytes, start)).collect()
}

/// Returns the bytes of the block that opens at or after `from`, before any `;` at its level.
pub(super) fn block_after(bytes: &[u8], from: usize) -> Option<Range<usize>> {
    let open = from + opening(&bytes[from..])?;
    let mut depth = 0_usize;
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(open..at + 1);
        }
    }
    None
}

/// Lists the places of a whole word.
pub(super) fn words<'code>(
    code: &'code str,
    word: &'code str,
) -> impl Iterator<Item = usize> + 'code {
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        let after = bytes.get(at + word.len());
        !before.is_some_and(|byte| is_word(*byte) || *byte == b'#')
            && !after.is_some_and(|byte| is_word(*byte))
    })
}

fn function_at(code: &str, bytes: &[u8], start: usize) -> Option<Function> {
    let after = &code[start + 2..];
    let name: String =
        after.trim_start().bytes().take_while(|byte| is_word(*byte)).map(char::from).collect();
    // A type such as `fn(u8)` has no name.
    if name.is_empty() {
        return None;
    }
    let block = block_after(bytes, start)?;
    Some(Function { name, bytes: start..block.end })
}

/// The first `{` outside of parentheses and brackets, when no `;` comes before it.
fn opening(bytes: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' if depth == 0 => return Some(at),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(code: &str) -> Vec<String> {
        functions(code).into_iter().map(|function| function.name).collect()
    }

    #[test]
    fn functions_with_bodies_are_found() {
        let cases: &[(&str, &[&str])] = &[
            ("fn a() {}", &["a"]),
            ("trait T { fn a(&self); fn b(&self) { } }", &["b"]),
            ("fn a(x: [u8; 4]) -> [u8; 4] { fn b() {} x }", &["a", "b"]),
            ("type F = fn(u8) -> u8; struct S { f: fn() }", &[]),
            ("let fnord = 1; r#fn; infn x {}", &[]),
            ("fn open() {", &[]),
        ];
        for (code, expected) in cases {
            assert_eq!(names(code), *expected, "{code}");
        }
    }

    #[test]
    fn a_function_ends_at_its_own_brace() {
        let code = "fn a() { if x { y } } fn b() {}";
        let ends: Vec<&str> = functions(code).iter().map(|f| &code[f.bytes.clone()]).collect();
        assert_eq!(ends, ["fn a() { if x { y } }", "fn b() {}"]);
    }
}
