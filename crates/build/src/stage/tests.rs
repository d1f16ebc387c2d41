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
    let mut state = StageState::new(&file, 0, base);
    let mut effects = Vec::new();
    for at in 0..file.stages[0].len() {
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
