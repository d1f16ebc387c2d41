use std::collections::BTreeMap;

use super::*;

fn effects(text: &str, given: &[(&str, &str)]) -> Result<(Vec<Effect>, BuildConfig), String> {
    let given: BTreeMap<_, _> =
        given.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    let file = Dockerfile::parse(text, &given).map_err(|error| error.to_string())?;
    let base = BuildConfig {
        env: vec![("PATH".to_owned(), "/bin".to_owned())],
        user: Some("app".to_owned()),
        cmd: vec!["old".to_owned()],
        ..BuildConfig::default()
    };
    let steps = file.stages[0].len();
    let mut state = StageState::new(Arc::new(file), 0, base).map_err(|error| error.to_string())?;
    let mut effects = Vec::new();
    for at in 0..steps {
        effects.push(state.apply(at).map_err(|error| error.to_string())?);
    }
    Ok((effects, state.config))
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[test]
fn a_command_has_what_stands_above_it() {
    let text = "ARG G=g\nFROM x\nARG G\nARG A=1\nARG B\nENV E=$A-$B P=\"${PATH}:/x\"\n\
                WORKDIR /w\nWORKDIR sub/../dir\nUSER u:$G\nRUN run $A\n";
    let (effects, config) = effects(text, &[("B", "two")]).expect("it is good");
    assert_eq!(effects[4], Effect::MakeDir { path: "/w".to_owned() });
    assert_eq!(effects[5], Effect::MakeDir { path: "/w/dir".to_owned() });
    let expected = Run {
        argv: strings(&["/bin/sh", "-c", "run $A"]),
        env: pairs(&[
            ("G", "g"),
            ("A", "1"),
            ("B", "two"),
            ("PATH", "/bin"),
            ("E", "1-two"),
            ("P", "/bin:/x"),
        ]),
        user: Some("u:g".to_owned()),
        dir: "/w/dir".to_owned(),
    };
    assert_eq!(effects.last(), Some(&Effect::Run(expected)));
    assert_eq!(config.user.as_deref(), Some("u:g"));
    assert_eq!(config.working_dir.as_deref(), Some("/w/dir"));
}

#[test]
fn the_user_of_the_base_does_not_build() {
    let (effects, config) = effects("FROM x\nRUN y\n", &[]).expect("it is good");
    let Effect::Run(run) = &effects[0] else { panic!("a command") };
    assert_eq!((run.user.as_deref(), run.dir.as_str()), (None, "/"));
    assert_eq!(config.user.as_deref(), Some("app"));
}

#[test]
fn env_wins_over_arg_and_reads_before_it_sets() {
    let text = "FROM x\nARG A=arg\nENV A=env\nENV A=new B=$A\nRUN x\n";
    let (effects, _) = effects(text, &[]).expect("it is good");
    let Some(Effect::Run(run)) = effects.last() else { panic!("a command") };
    assert_eq!(run.env, pairs(&[("A", "new"), ("PATH", "/bin"), ("B", "env")]));
}

#[test]
fn what_is_run_later() {
    let text = "FROM x\nSHELL [\"/bin/bash\", \"-ec\"]\nCMD one\nENTRYPOINT [\"e\"]\n";
    let (_, config) = effects(text, &[]).expect("it is good");
    assert_eq!((config.entrypoint, config.cmd), (strings(&["e"]), Vec::new()));
    let (_, config) = effects(&format!("{text}CMD go\n"), &[]).expect("it is good");
    assert_eq!(config.cmd, strings(&["/bin/bash", "-ec", "go"]));
}

#[test]
fn where_a_copy_goes() {
    let text = |copy: &str| format!("FROM x\nARG D=d\nWORKDIR /w\n{copy}\n");
    for (copy, dest) in [
        ("COPY a b", "/w/b"),
        ("COPY a b/", "/w/b/"),
        ("COPY a .", "/w/"),
        ("COPY a /", "/"),
        ("COPY a /$D/../x", "/x"),
        ("COPY [\"a b\", \"${D}\"]", "/w/d"),
        ("ADD a ..", "/"),
    ] {
        let (effects, _) = effects(&text(copy), &[]).expect(copy);
        let Some(Effect::Copy(done)) = effects.last() else { panic!("a copy") };
        assert_eq!(done.dest, dest, "{copy}");
    }
    let copy = "COPY --chown=1:$D --chmod=0750 --link a* [b] c/";
    let (effects, _) = effects(&text(copy), &[]).expect("it is good");
    let Some(Effect::Copy(copy)) = effects.last() else { panic!("a copy") };
    assert_eq!(copy.sources, strings(&["a*", "[b]"]));
    assert_eq!((copy.chown.as_deref(), copy.chmod), (Some("1:d"), Some(0o750)));
}

#[test]
fn what_means_nothing_is_refused() {
    for text in ["COPY a b c", "COPY --chmod=rwx a b", "USER $NONE", "COPY $NONE a", "ENV A=${A"] {
        assert!(effects(&format!("FROM x\n{text}\n"), &[]).is_err(), "{text}");
    }
}

#[test]
fn keys_follow_everything_that_counts() {
    use crate::CacheKey;
    let base = CacheKey::base("image", 1);
    let key = |text: &str, given: &[(&str, &str)]| {
        let (effects, _) = effects(text, given).expect("it is good");
        effects.iter().fold(base, |key, effect| key.then(effect, None))
    };
    let one = key("FROM x\nARG A\nRUN y\n", &[("A", "1")]);
    assert_eq!(one, key("FROM x\nARG A\nRUN  y\n", &[("A", "1")]));
    assert_ne!(one, key("FROM x\nARG A\nRUN y\n", &[("A", "2")]));
    assert_ne!(one, key("FROM x\nARG A\nRUN z\n", &[("A", "1")]));
    assert_ne!(one, key("FROM x\nARG A\nUSER u\nRUN y\n", &[("A", "1")]));
    assert_ne!(CacheKey::base("image", 1), CacheKey::base("image", 2));
    let effect = Effect::MakeDir { path: "/a".to_owned() };
    assert_ne!(base.then(&effect, None), base.then(&effect, Some(one)));
}

#[test]
fn a_stage_is_bounded() {
    let long = "x".repeat(200 << 10);
    let many = |what: &dyn Fn(usize) -> String, count| {
        (0..count).map(|n| format!(" {}", what(n))).collect::<String>()
    };
    let times = |n| format!("v{n}=$X");
    let env = format!("FROM x\nENV X={long}\n");
    for (text, line) in [
        (format!("{env}ENV{}", many(&times, 3)), None),
        (format!("{env}ENV{}", many(&times, 5)), Some(3)),
        (format!("{env}ENV{}", many(&times, 50_000)), Some(3)),
        (format!("{env}ENV a=$X b=$X\nENV c=$X\nENV d=$X e=1"), None),
        (format!("{env}ENV a=$X b=$X\nENV c=$X\nARG d=$X e=$X"), Some(5)),
        (format!("{env}ARG{}", many(&times, 50_000)), Some(3)),
        (format!("ARG X={long}\nARG{}\nFROM x", many(&times, 4)), None),
        (format!("ARG X={long}\nARG{}\nFROM x", many(&times, 50_000)), Some(2)),
        (format!("{env}CMD {long}\nENTRYPOINT {long}\nWORKDIR /$X\nCMD {long}\nUSER $X"), Some(7)),
        (format!("FROM x\nENV{}", many(&|n| format!("a{n}="), 4000)), None),
        (format!("FROM x\nENV{}", many(&|n| format!("a{n}="), 4100)), Some(2)),
        (format!("FROM x\nCOPY{} d/", many(&|n| n.to_string(), 1024)), None),
        (format!("FROM x\nCOPY{} d/", many(&|n| n.to_string(), 1025)), Some(2)),
        (format!("{env}COPY $X d/"), Some(3)),
        (format!("FROM x\nCOPY {}* d/", "a".repeat(4095)), None),
        (format!("FROM x\nCOPY {}* d/", "a".repeat(4096)), Some(2)),
        (format!("{env}COPY <<a <<b <<c d/\n$X$X\na\n$X$X\nb\n$X$X\nc"), Some(3)),
        (format!("{env}COPY <<a <<b d/\n$X$X\na\n$X$X\nb"), None),
    ] {
        let refused = effects(&format!("{text}\n"), &[]).err();
        let begins = line.map(|line: usize| format!("Dockerfile line {line}: "));
        let shown = &text[..text.floor_char_boundary(40)];
        match (&refused, &begins) {
            (None, None) => {}
            (Some(said), Some(begins)) if said.starts_with(begins.as_str()) => {}
            (_, _) => panic!("{shown}: {refused:?}, not {begins:?}"),
        }
    }
    let base = BuildConfig { cmd: vec!["x".repeat(2 << 20)], ..BuildConfig::default() };
    let file = Dockerfile::parse("ARG A\nFROM x\n", &BTreeMap::new()).expect("it is good");
    let refused = StageState::new(Arc::new(file), 0, base).expect_err("it is too much");
    assert_eq!(refused.line, 2);
}

#[test]
fn many_options_take_no_time() {
    let text = format!("FROM x\nRUN{} true\n", " --network=default".repeat(50_000));
    assert!(effects(&text, &[]).is_ok());
}
