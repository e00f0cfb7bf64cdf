//! Judges read answers right, and say clearly where they cannot.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candor::data::{Dataset, Question};
use candor::judge::{
    Asked, Aspect, EndpointJudge, EndpointParams, Judge, Judgement, Key, LogitJudge, ProbeJudge,
    ProbeParams,
};
use candor::session::{CacheType, SessionParams};
use candor::{Error, Result, Special};
use common::decided::decided;
use common::fixture::{Arch, Fixture, N_HEAD, N_LAYER};
use common::load;
use common::oracle::Oracle;
use common::server::{Reply, Server};

const KEY: &str = "k3y-that-nobody-sees";

fn questions() -> Vec<Question> {
    let data = "Question,Best Answer,Correct Answers,Incorrect Answers\n\
        What is the capital of Australia?,Canberra,Canberra,Sydney\n\
        Is rain wet?,it is,it is; yes,no\n";
    Dataset::from_bytes("q.csv".as_ref(), data.as_bytes()).expect("sound data").questions
}

fn endpoint(server: &Server) -> EndpointJudge {
    EndpointJudge::new(
        EndpointParams::new(&server.address, "a-model", Key::new(KEY))
            .with_timeout(Duration::from_millis(500))
            .with_pause(Duration::from_millis(1)),
    )
    .expect("a sound address")
}

/// What a judge says of some answers to one question.
fn judge(
    judge: &mut dyn Judge,
    question: &Question,
    texts: &[&str],
) -> (Vec<Option<Judgement>>, Result<()>) {
    let asked: Vec<Asked> = texts.iter().map(|&text| Asked { question, text }).collect();
    let mut all = vec![None; texts.len()];
    let result = judge.judge(&asked, &mut |i, judgement| all[i] = Some(judgement));
    (all, result)
}

#[test]
fn a_model_behind_an_address_judges_truth_and_information() {
    let server = Server::start(|_, request| {
        let is_info = request.message().contains("inform about");
        let answer = request.message().split("<answer>").nth(1).unwrap_or_default();
        match (is_info, answer.starts_with("Canberra"), answer.starts_with("I have no comment")) {
            (false, true, _) | (false, _, true) | (true, true, _) => Reply::Says("Yes."),
            (true, _, true) => Reply::Says("no"),
            _ => Reply::Says("hm"),
        }
    });
    let question = &questions()[0];
    let texts = ["Canberra.", "I have no comment.", "Who knows"];
    let (judged, result) = judge(&mut endpoint(&server), question, &texts);
    result.unwrap();
    let judged: Vec<Judgement> = judged.into_iter().flatten().collect();
    let said: Vec<_> =
        judged.iter().map(|j| (j.truth.is_yes(), j.info.is_yes(), j.is_unclear())).collect();
    assert_eq!(said, [(true, true, false), (true, false, false), (false, false, true)]);
    let requests = server.requests();
    assert_eq!(requests.len(), 6);
    for request in requests {
        assert_eq!(request.path, "/v1/chat/completions");
        assert_eq!(request.authorization, Some(format!("Bearer {KEY}")));
        assert_eq!(
            (request.body["model"].as_str(), &request.body["temperature"]),
            (Some("a-model"), &0.into())
        );
        assert!(request.message().contains("What is the capital of Australia?"));
    }
}

#[test]
fn asks_again_where_that_may_help() {
    let server = Server::start(|n, _| match n {
        0 => Reply::Status(429, "retry-after: 0", String::new()),
        1 => Reply::Status(503, "", "busy".to_owned()),
        2 => Reply::Status(500, "", String::new()),
        _ => Reply::Says("yes"),
    });
    endpoint(&server).check().unwrap();
    assert_eq!(server.requests().len(), 4);
}

#[test]
fn gives_up_on_an_endpoint_that_fails_and_keeps_what_it_said_before() {
    let server = Server::start(|n, _| match n {
        0..4 => Reply::Says("yes"),
        _ => Reply::Status(502, "", r#"{"error": {"message": "no GPU"}}"#.to_owned()),
    });
    let params = EndpointParams::new(&server.address, "a-model", None)
        .with_n_retry(1)
        .with_pause(Duration::from_millis(1))
        .with_n_parallel(1);
    let question = &questions()[0];
    let mut one_by_one = EndpointJudge::new(params).unwrap();
    let (judged, result) = judge(&mut one_by_one, question, &["a", "b", "c", "d"]);
    assert_eq!(judged.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false, false]);
    let error = result.unwrap_err().to_string();
    let expected = format!("judge a-model at {}: it fails (502: no GPU) (2 tries)", server.address);
    assert_eq!(error, expected);
    // The third answer is asked about twice, about its truth; the fourth is not asked about.
    assert_eq!(server.requests().len(), 6 + 2);
}

#[test]
fn what_does_not_pass_is_said_at_once_and_without_the_key() {
    let echo = || format!(r#"{{"error": {{"message": "bad key {KEY} for the m0del"}}}}"#);
    for (reply, expected) in [
        ((401, ""), "it refuses the key (401): check the one in CANDOR_JUDGE_KEY"),
        ((403, ""), "it refuses the key (403)"),
        ((404, ""), "it does not know this address or model (404: bad key … for the m0del)"),
        ((400, ""), "it does not take the request (400: bad key … for the m0del)"),
        ((301, "location: http://127.0.0.1:9/"), "it has moved (301)"),
        ((200, ""), "what it sends is not a chat completion"),
    ] {
        let (status, header) = reply;
        let server = Server::start(move |_, _| Reply::Status(status, header, echo()));
        let error = endpoint(&server).check().unwrap_err();
        assert!(matches!(error, Error::Judge { .. }));
        let error = error.to_string();
        assert!(error.contains(expected) && !error.contains(KEY), "{error}");
        assert_eq!(server.requests().len(), 1, "{status}");
    }
}

#[test]
fn does_not_wait_for_ever() {
    let server = Server::start(|_, _| Reply::Silence);
    let params = EndpointParams::new(&server.address, "a-model", None)
        .with_timeout(Duration::from_millis(300))
        .with_n_retry(1)
        .with_pause(Duration::from_millis(1));
    let start = Instant::now();
    let error = EndpointJudge::new(params).unwrap().check().unwrap_err().to_string();
    assert!(error.contains("no answer within 0.3 s") && error.contains("(2 tries)"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(30));
    // Nobody listens on port 9 of this machine.
    let params = EndpointParams::new("http://127.0.0.1:9", "m", None).with_n_retry(0);
    let error = EndpointJudge::new(params).unwrap().check().unwrap_err().to_string();
    assert!(error.contains("cannot be reached"), "{error}");
}

/// As exact as llama.cpp can be.
fn exact() -> SessionParams {
    SessionParams::default()
        .with_n_threads(Some(1))
        .with_flash_attention(Some(false))
        .with_cache(CacheType::F32)
}

#[test]
fn a_local_judge_is_read_by_the_odds_of_every_spelling() {
    let folder = tempfile::tempdir().unwrap();
    let path = Fixture::new(Arch::Llama).write(folder.path());
    let (model, oracle) = (load(&path), Oracle::open(&path).unwrap());
    // ln p of all tokens after the prompt's.
    let log_probability = |prompt: &str, word: &str| -> f64 {
        let n_prompt = model.tokenize(prompt, Special::Start).unwrap().len();
        let tokens = model.tokenize(&format!("{prompt}{word}"), Special::Start).unwrap();
        let logits = oracle.forward(&tokens).logits;
        (n_prompt..tokens.len())
            .map(|i| {
                let row = logits.row(i - 1);
                let largest = row.fold(f64::MIN, |a, &b| a.max(b));
                let total: f64 = row.iter().map(|x| (x - largest).exp()).sum();
                row[tokens[i] as usize] - largest - total.ln()
            })
            .sum()
    };
    let question = &questions()[1];
    let texts = ["it is", "no, it is in the desert", ""];
    let mut local = LogitJudge::new(&model, 0, exact()).unwrap();
    let (judged, result) = judge(&mut local, question, &texts);
    result.unwrap();
    for (text, judgement) in texts.iter().zip(judged) {
        let judgement = judgement.expect("each is judged");
        for (aspect, got) in Aspect::ALL.into_iter().zip([judgement.truth, judgement.info]) {
            let prompt = aspect.prompt(&question.text, text);
            let sum = |words: [&str; 4]| -> f64 {
                words.iter().map(|word| log_probability(&prompt, word).exp()).sum()
            };
            let (yes, no) = (sum([" yes", " Yes", "yes", "Yes"]), sum([" no", " No", "no", "No"]));
            let expected = yes / (yes + no);
            assert!((got.yes - expected).abs() < 1e-4, "{text}: {} and {expected}", got.yes);
            let mass = yes + no;
            assert!((got.mass / mass - 1.0).abs() < 1e-3, "{text}: {} and {mass}", got.mass);
        }
    }
}

#[test]
fn a_local_judge_that_knows_its_mind_says_yes_or_no() {
    let folder = tempfile::tempdir().unwrap();
    let model = load(&decided(folder.path()));
    let mut local = LogitJudge::new(&model, 0, exact()).unwrap();
    let texts = ["it is", "no", "yes it is so", "not at all", "we think so", "who knows"];
    let (judged, result) = judge(&mut local, &questions()[1], &texts);
    result.unwrap();
    let readings: Vec<_> = judged.iter().flatten().flat_map(|j| [j.truth, j.info]).collect();
    assert_eq!(readings.len(), 12);
    // Here and there the two words are as unlikely as any.
    let clear: Vec<_> = readings.iter().filter(|r| r.mass > 0.9).collect();
    assert!(clear.len() >= 9 && clear.iter().all(|r| !r.is_unclear()), "{readings:?}");
    assert!(clear.iter().all(|r| r.yes < 0.01 || r.yes > 0.99), "{readings:?}");
    assert!(clear.iter().any(|r| r.is_yes()) && clear.iter().any(|r| !r.is_yes()), "{readings:?}");
    assert_eq!(local.facts().kind, "gguf");
}

/// Judgements that a probe can learn: an answer that ends in water is true, one that is long informs.
fn judgements(folder: &Path, n_question: usize) {
    let line = |aspect: Aspect, question: &str, answer: &str, is_so: bool| {
        let completion = if is_so { " yes" } else { " no" };
        let prompt = aspect.prompt(question, answer);
        format!("{}\n", serde_json::json!({ "prompt": prompt, "completion": completion }))
    };
    let (mut truth, mut info) = (String::new(), String::new());
    for i in 0..n_question {
        let letter = |i: usize| char::from(b'a' + (i % 26) as u8);
        let question = format!("is {}{}{} in the rain?", letter(i), letter(i / 26), letter(7 * i));
        for (answer, is_true, informs) in [
            ("it is all water", true, true),
            ("water", true, false),
            ("it is all sand", false, true),
            ("sand", false, false),
        ] {
            let answer = format!("{} {answer}", letter(3 * i));
            truth += &line(Aspect::Truth, &question, &answer, is_true);
            info += &line(Aspect::Info, &question, &answer, informs);
        }
    }
    std::fs::write(folder.join(Aspect::Truth.file()), truth).unwrap();
    std::fs::write(folder.join(Aspect::Info.file()), info).unwrap();
}

#[test]
fn probes_learn_to_judge_and_go_on_where_they_were() {
    let folder = tempfile::tempdir().unwrap();
    judgements(folder.path(), 60);
    let model = load(&Fixture::new(Arch::Llama).write(folder.path()));
    let params = ProbeParams::new(folder.path().to_owned(), folder.path().to_owned())
        .with_limit(0)
        .with_n_threads(Some(1))
        .with_seed(1);
    // Stopped in the middle of the second aspect.
    let stop = |step: candor::judge::ProbeStep| match step.aspect {
        Aspect::Info => Err(Error::Interrupted { kept: "all".to_owned() }),
        Aspect::Truth => Ok(()),
    };
    let error = ProbeJudge::new(&model, &params, stop, || ()).err().expect("it was stopped");
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    let (mut aspects, n_head) = (Vec::new(), AtomicUsize::new(0));
    let go_on = |step: candor::judge::ProbeStep| {
        aspects.push(step.aspect);
        Ok(())
    };
    let mut probes = ProbeJudge::new(&model, &params, go_on, || {
        n_head.fetch_add(1, Ordering::Relaxed);
    })
    .unwrap();
    assert_eq!(n_head.load(Ordering::Relaxed), 4 * N_LAYER * N_HEAD);
    assert!(!aspects.is_empty() && aspects.iter().all(|&a| a == Aspect::Info), "{aspects:?}");

    let [truth, info] = probes.quality();
    for quality in [truth, info] {
        assert!(quality.accuracy > 0.9 && quality.is_informed(), "{quality:?}");
        assert_eq!((quality.majority, quality.n_row, quality.n_question), (0.5, 240, 60));
    }
    let mut question = questions()[1].clone();
    question.text = "is zzz in the rain?".to_owned();
    let texts = ["e it is all water", "e water", "e it is all sand", "e sand"];
    let (judged, result) = judge(&mut probes, &question, &texts);
    result.unwrap();
    let said: Vec<_> =
        judged.iter().flatten().map(|j| (j.truth.is_yes(), j.info.is_yes())).collect();
    assert_eq!(said, [(true, true), (true, false), (false, true), (false, false)]);
    let about = probes.facts().about;
    assert!(about.contains("held-out") && about.contains("always the same: 50.0 %"), "{about}");

    // What was fitted is kept, and reads the same.
    let again = |_| -> Result<()> { panic!("nothing is left to capture") };
    let mut again = ProbeJudge::new(&model, &params, again, || ()).unwrap();
    assert_eq!(judge(&mut again, &question, &texts).0, judged);
    let stores = std::fs::read_dir(folder.path()).unwrap().flatten();
    assert!(!stores.into_iter().any(|f| f.file_name().to_string_lossy().contains("safetensors")));
}

#[test]
fn probes_learn_from_the_judgements_that_were_published() {
    let Some(data) = common::shared("data/truthfulqa") else { return };
    let Some(stories) = common::shared("models/stories260K.gguf") else { return };
    let folder = tempfile::tempdir().unwrap();
    let params = ProbeParams::new(data, folder.path().to_owned())
        .with_limit(400)
        .with_n_threads(Some(1))
        .with_seed(0);
    let model = load(&stories);
    let mut probes = ProbeJudge::new(&model, &params, |_| Ok(()), || ()).unwrap();
    for (aspect, quality) in Aspect::ALL.into_iter().zip(probes.quality()) {
        println!("{aspect:?} of 400 judgements by stories260K: {quality:?}");
        assert_eq!(quality.n_row, 400);
        // So small a model reads nothing of either, and its judge says so instead of a verdict that
        // sounds like one: .598 beside a majority of .605, and .835 beside .835.
        assert!(quality.majority > 0.5 && !quality.is_informed(), "{quality:?}");
        assert!((quality.balanced_accuracy - 0.5).abs() < 0.05, "{quality:?}");
    }
    let (judged, result) = judge(&mut probes, &questions()[0], &["Sydney is the capital."]);
    result.unwrap();
    assert!(judged[0].is_some_and(|j| (0.0..=1.0).contains(&j.truth.yes)));
}
