use super::*;

fn parse(text: &str) -> Result<Dockerfile, DockerfileError> {
    Dockerfile::parse(text, &BTreeMap::new())
}

#[test]
fn stages_are_found() {
    let text = "# syntax=docker/dockerfile:1\n\
                ARG V=3.12\n\
                FROM python:${V}-slim AS Base\n\
                RUN true\n\
                FROM base\n\
                COPY --from=base /a /b\n\
                COPY --from=0 /a /b\n\
                COPY --from=busybox:1 /a /b\n";
    let file = parse(text).expect("it is good");
    let [base, last] = file.stages.as_slice() else { panic!("two stages") };
    assert_eq!(base.base, Base::Image("python:3.12-slim".to_owned()));
    assert_eq!(base.name.as_deref(), Some("base"));
    assert_eq!(last.base, Base::Stage(0));
    assert_eq!(last.copied_images().collect::<Vec<_>>(), ["busybox:1"]);
    assert_eq!(file.needed(), [0, 1]);
}

#[test]
fn a_stage_that_nothing_needs_is_left_out() {
    let file = parse("FROM a AS x\nFROM b AS y\nFROM c\nCOPY --from=y /p /p\n");
    assert_eq!(file.expect("it is good").needed(), [1, 2]);
}

#[test]
fn lines_are_joined() {
    let text = "FROM a\nRUN one && \\\n  # not this\n\n  two \\\n  three\nRUN four\n";
    let file = parse(text).expect("it is good");
    let command = |at: usize| file.stages[0].instructions[at].kind.clone();
    assert_eq!(command(0), Kind::Run(Command::Shell("one &&   two   three".to_owned())));
    assert_eq!(command(1), Kind::Run(Command::Shell("four".to_owned())));
    let file = parse("# escape=`\nFROM a\nRUN one `\n two\\\n").expect("it is good");
    let run = Kind::Run(Command::Shell("one  two\\".to_owned()));
    assert_eq!(file.stages[0].instructions[0].kind, run);
}

#[test]
fn commands_have_two_forms() {
    let file = parse("FROM a\nRUN [\"a\", \"b c\"]\nRUN [ -e x ]\nCMD echo hi\n");
    let file = file.expect("it is good");
    let kinds: Vec<_> = file.stages[0].instructions.iter().map(|i| i.kind.clone()).collect();
    let exec = Command::Exec(vec!["a".to_owned(), "b c".to_owned()]);
    assert_eq!(kinds[0], Kind::Run(exec));
    assert_eq!(kinds[1], Kind::Run(Command::Shell("[ -e x ]".to_owned())));
    assert_eq!(kinds[2], Kind::Cmd(Command::Shell("echo hi".to_owned())));
}

#[test]
fn here_documents_are_taken_in() {
    let text = "FROM a\n\
                RUN <<EOF\necho $A\nEOF\n\
                RUN cat <<'E1' >/f && cat <<-E2 >/g\none\nE1\n\ttwo\n\tE2\n\
                COPY <<x.conf <<\"y\" /etc/\nhello $V\nx.conf\nplain $V\ny\n\
                RUN echo $((1<<2))\n";
    let file = parse(text).expect("it is good");
    let kinds: Vec<_> = file.stages[0].instructions.iter().map(|i| i.kind.clone()).collect();
    assert_eq!(kinds[0], Kind::Run(Command::Shell("echo $A\n".to_owned())));
    let shell = "cat <<'E1' >/f && cat <<-E2 >/g\none\nE1\n\ttwo\n\tE2\n";
    assert_eq!(kinds[1], Kind::Run(Command::Shell(shell.to_owned())));
    let Kind::Copy(copy) = &kinds[2] else { panic!("a copy") };
    let inline = |name: &str, text: &str, expands| {
        (Inline { name: name.to_owned(), text: text.to_owned() }, expands)
    };
    let expected = [inline("x.conf", "hello $V\n", true), inline("y", "plain $V\n", false)];
    assert_eq!(copy.inline, expected);
    assert_eq!(copy.dest, "/etc/");
}

#[test]
fn a_document_may_name_its_interpreter() {
    let file = parse("FROM a\nRUN <<EOF\n#!/usr/bin/python3\nprint(1)\nEOF\n").expect("good");
    let Kind::Run(Command::Shell(text)) = &file.stages[0].instructions[0].kind else {
        panic!("a command")
    };
    assert!(text.contains("#!/usr/bin/python3\nprint(1)\ntarn-script\n"), "{text}");
}

#[test]
fn what_cannot_be_built_is_refused_with_its_line() {
    for (text, line, words) in [
        ("", 1, "no FROM"),
        ("# nothing\n", 1, "no FROM"),
        ("RUN x\nFROM a\n", 1, "before FROM"),
        ("FROM a\n\nFOO x\n", 3, "no instruction"),
        ("FROM a\nRUN\n", 2, "says nothing"),
        ("FROM\n", 1, "says nothing"),
        ("FROM a b\n", 1, "FROM is followed"),
        ("FROM scratch\n", 1, "scratch"),
        ("FROM $NONE\n", 1, "empty"),
        ("FROM --platform=linux/arm64 a\n", 1, "arm64"),
        ("FROM a AS x\nFROM b AS X\n", 2, "two stages"),
        ("FROM a AS 1x\n", 1, "cannot name a stage"),
        ("FROM a\nCOPY x\n", 2, "where to"),
        ("FROM a\nCOPY --from=3 x y\n", 2, "no stage 3"),
        ("FROM a AS s\nCOPY --from=s x y\n", 2, "itself"),
        ("FROM a\nADD https://x/y /y\n", 2, "not fetched"),
        ("FROM a\nRUN --mount=type=cache,target=/x y\n", 2, "--mount"),
        ("FROM a\nRUN --network=none y\n", 2, "--network"),
        ("FROM a\nCOPY --parents x y\n", 2, "--parents"),
        ("FROM a\nENV A\n", 2, "no value"),
        ("FROM a\nENV A=1 B\n", 2, "`B`"),
        ("FROM a\nSHELL x\n", 2, "JSON"),
        ("FROM a\nRUN cat <<EOF\nx\n", 2, "has no end"),
        ("FROM a\nRUN x\0\n", 2, "NUL"),
        ("# escape=x\nFROM a\n", 1, "escape"),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(error.text.contains(words), "{text}: {error}");
    }
}

#[test]
fn arguments_that_nothing_takes_are_told() {
    let given = [("A", "1"), ("B", "2"), ("C", "3")];
    let given = given.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let file = Dockerfile::parse("ARG A\nFROM x:$A\nARG B\n", &given).expect("it is good");
    assert_eq!(file.stages[0].base, Base::Image("x:1".to_owned()));
    assert_eq!(file.unused_args, ["C"]);
}
