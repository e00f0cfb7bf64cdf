//! How a model wants its conversations written: its own Jinja chat template, rendered as the
//! transformers library does, so that the model meets the text it was trained on.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{Local, NaiveDate, NaiveDateTime, NaiveTime};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::confine::{Limits, Overrun, confine};
use super::message::{Message, Role};
use crate::data::PromptForm;
use crate::error::shown;
use crate::{Error, Model, Result, SpecialToken};

/// What a template may cost in minijinja's fuel, which pays for one step or 64 bytes: far more than a
/// conversation that fits into a context, far less than a loop that never ends, and 26 MB in all.
const FUEL: u64 = 400_000;

/// The longest template, in bytes: three times the longest that models come with. What minijinja does
/// before the first step, the fuel does not pay for.
const SOURCE_MAX: usize = 1 << 16;

/// What a template may take besides. The memory is twice what its fuel pays for: lists that are added are
/// not counted by minijinja before they are there. The stack is a thousand bytes for each list in a list
/// that the fuel pays for. Templates that models come with take milliseconds.
const LIMITS: Limits =
    Limits { memory: 50_000_000, stack: 256 << 20, time: Duration::from_secs(5) };

/// The longest text that a template's Python methods take or give, in bytes: minijinja counts what they
/// made only once it is there.
const TEXT_MAX: usize = 2 << 20;

/// The longest text, in bytes, that is looked for in every character of a text or in every item of a list.
const PATTERN_MAX: usize = 1000;

/// Turns a conversation into the text that the model is to continue.
///
/// A model without a template gets one line of `Q: {question} A: {answer}` turns, the form that
/// steering vectors are fitted on, after the system prompt and a blank line.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    /// Jinja; `None` for the plain form.
    source: Option<String>,
    bos: String,
    eos: String,
    /// What it once took too much of: it is not tried again, so that no more is left behind.
    overrun: Arc<OnceLock<Overrun>>,
}

impl ChatTemplate {
    /// A template by its source, Jinja; `None` is the plain form. `bos` and `eos` are the texts that
    /// it calls `bos_token` and `eos_token`.
    #[must_use]
    pub fn new(source: Option<String>, bos: String, eos: String) -> Self {
        Self { source, bos, eos, overrun: Arc::default() }
    }

    /// The template of a model.
    #[must_use]
    pub fn of(model: &Model) -> Self {
        Self::new(
            model.chat_template().map(str::to_owned),
            model.special_text(SpecialToken::Bos),
            model.special_text(SpecialToken::Eos),
        )
    }

    /// Strings that end an answer, besides the model's own end-of-turn tokens: where questions
    /// begin with `Q:`, an answer ends before the next one.
    #[must_use]
    pub fn stops(&self) -> &'static [&'static str] {
        match &self.source {
            None => &["Q:", "\n"],
            Some(source) if source.contains("Q:") => &["Q:"],
            Some(_) => &[],
        }
    }

    /// The conversation as text, up to where the model's next answer begins.
    ///
    /// # Errors
    /// [`Error::Template`] with what the template says: it may break Jinja's syntax, or refuse the
    /// conversation, as some refuse a system prompt. Or with what it took too much of: steps, time,
    /// or memory, which is counted where the program's allocator is [`crate::Bounded`]. A template that
    /// took too much time or memory is not tried again, by this value or its clones.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        match &self.source {
            Some(source) => self.render_as(source, messages, Local::now().naive_local(), true),
            None => Ok(plain(messages)),
        }
    }

    /// The same at a given time, where a template asks for it, and with or without thinking aloud,
    /// where a template knows both.
    fn render_as(
        &self,
        source: &str,
        messages: &[Message],
        now: NaiveDateTime,
        thinks: bool,
    ) -> Result<String> {
        let fail = |problem| Err(Error::Template { problem });
        if let Some(overrun) = self.overrun.get() {
            return fail(overrun.to_string());
        }
        if source.len() > SOURCE_MAX {
            return fail(format!("it has {} bytes, at most {SOURCE_MAX} are taken", source.len()));
        }
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => message.role.name(), content => &message.content })
            .collect();
        let context = context! {
            messages,
            add_generation_prompt => true,
            bos_token => &self.bos,
            eos_token => &self.eos,
            // Templates ask whether these are none.
            tools => (),
            documents => (),
            enable_thinking => thinks,
        };
        match confine(LIMITS, rendering(source, now, context)) {
            Ok(rendered) => rendered.or_else(fail),
            Err(overrun @ (Overrun::Memory(_) | Overrun::Time(_))) => {
                fail(self.overrun.get_or_init(|| overrun).to_string())
            }
            Err(overrun) => fail(overrun.to_string()),
        }
    }

    /// The template as a form for questions and answers: the question is the user's only message, the
    /// answer what the model says to it.
    ///
    /// The same form on every day: a template that asks for the date is told 26 July 2024, on which
    /// Llama's fall back. The answer follows at once, without thinking aloud, where the template has
    /// `enable_thinking`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the model has no template, or one that drops what the user says;
    /// [`Error::Template`] as [`ChatTemplate::render`].
    pub fn form(&self) -> Result<PromptForm> {
        const QUESTION: &str = "{question}";
        const ANSWER: &str = "{answer}";
        const NEXT: &str = "{next}";
        let Some(source) = &self.source else {
            let problem = "the model's file has none (tokenizer.chat_template): ask in the form \
                           `Q: … A: …`, that is without --chat, or take a model that was trained \
                           to chat";
            return Err(Error::invalid("chat template", problem));
        };
        let day = NaiveDate::from_ymd_opt(2024, 7, 26).unwrap_or_default().and_time(NaiveTime::MIN);
        let ask = Message::new(Role::User, QUESTION);
        let prompt = self.render_as(source, std::slice::from_ref(&ask), day, false)?;
        // How answers follow, and questions follow answers, where the template can say it.
        let turns = [ask, Message::new(Role::Assistant, ANSWER), Message::new(Role::User, NEXT)];
        let talk = self.render_as(source, &turns, day, false).unwrap_or_default();
        let after = talk.split_once(ANSWER);
        let space = after
            .and_then(|(before, _)| before.strip_prefix(prompt.as_str()))
            .filter(|space| space.trim().is_empty())
            .unwrap_or_default();
        let between = after.and_then(|(_, after)| after.split_once(NEXT)).map(|(text, _)| text);
        PromptForm::parse_chat(&format!("{prompt}{space}{ANSWER}"), between.map(str::to_owned))
    }

    /// The conversation as tokens, up to where the model's next answer begins.
    ///
    /// # Errors
    /// What [`ChatTemplate::render`] gives.
    pub fn tokens(&self, model: &Model, messages: &[Message]) -> Result<Vec<i32>> {
        Ok(prompt_tokens(model, &self.render(messages)?))
    }
}

/// Tokens of a text that stands at the start of the context and may spell out control tokens; BOS
/// comes first where the model wants it, and never twice.
#[must_use]
pub fn prompt_tokens(model: &Model, text: &str) -> Vec<i32> {
    model.tokenize_rendered(text)
}

/// `{system}`, a blank line, then `Q: {question} A: {answer}` for each turn on one line.
fn plain(messages: &[Message]) -> String {
    let mut text = String::new();
    for Message { role, content } in messages {
        text += &match role {
            Role::System => format!("{content}\n\n"),
            Role::User => format!("Q: {content} A:"),
            Role::Assistant => format!(" {content} "),
        };
    }
    text
}

/// What renders a template, or says what is wrong with it.
fn rendering(
    source: &str,
    now: NaiveDateTime,
    context: Value,
) -> impl FnOnce() -> Result<String, String> + Send + 'static {
    // What minijinja makes once for all is made here.
    let environment = environment(now);
    let source = source.to_owned();
    move || {
        let rendered = environment.and_then(|it| it.render_named_str("template", &source, context));
        // An error may hold what the template made, and is freed here.
        rendered.map_err(|error| shown(&error.to_string()))
    }
}

/// Jinja as transformers sets it up: its whitespace rules, its two functions, Python's methods.
fn environment(now: NaiveDateTime) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(|state, value, method, args| {
        let is_search = matches!(method, "strip" | "lstrip" | "rstrip" | "count");
        if is_search && !args.iter().all(|arg| n_byte(arg).is_some_and(|n| n <= PATTERN_MAX)) {
            let problem = format!("{method} looks for a text of more than {PATTERN_MAX} bytes");
            return Err(minijinja::Error::new(ErrorKind::InvalidOperation, problem));
        }
        if result_max(value, method, args).is_none_or(|n_byte| n_byte > TEXT_MAX) {
            let problem =
                format!("{method} is given or gives a text of more than {TEXT_MAX} bytes");
            return Err(minijinja::Error::new(ErrorKind::InvalidOperation, problem));
        }
        unknown_method_callback(state, value, method, args)
    });
    environment.add_function("raise_exception", |problem: String| -> Result<(), _> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, problem))
    });
    environment.add_function("strftime_now", move |format: String| {
        // The longest code of all gives some thirty characters.
        if format.len() > 1000 {
            let problem = "strftime_now takes at most 1000 characters";
            return Err(minijinja::Error::new(ErrorKind::InvalidOperation, problem));
        }
        let mut text = String::new();
        // chrono tells of a code that it does not know only while it writes.
        write!(text, "{}", now.format(&format)).map(|()| text).map_err(|_| {
            let problem = format!("strftime_now does not know all of `{format}`");
            minijinja::Error::new(ErrorKind::InvalidOperation, problem)
        })
    });
    Ok(environment)
}

/// The most bytes that a Python method of a text works on or gives; `None` where they are more than
/// [`TEXT_MAX`].
fn result_max(value: &Value, method: &str, args: &[Value]) -> Option<usize> {
    let Some(text) = value.as_str() else { return Some(0) };
    let n_text = text.len();
    match method {
        "replace" => {
            let n_arg = |i: usize| args.get(i).and_then(Value::as_str).map_or(0, str::len);
            let n_place = n_text / n_arg(0).max(1) + 1;
            n_place.checked_mul(n_arg(1))?.checked_add(n_text)
        }
        "join" => {
            let Some(Ok(items)) = args.first().map(Value::try_iter) else { return Some(n_text) };
            let mut n_all = 0_usize;
            for item in items {
                n_all = n_all.checked_add(n_byte(&item)?)?.checked_add(n_text)?;
                if n_all > TEXT_MAX {
                    return None;
                }
            }
            Some(n_all)
        }
        "format" => {
            let runs = text.as_bytes().chunk_by(|a, b| a.is_ascii_digit() && b.is_ascii_digit());
            let mut n_all = n_text;
            for run in runs.filter(|run| run[0].is_ascii_digit()) {
                // A width or precision of five digits is no format of a chat's.
                n_all = n_all.checked_add(if run.len() < 5 { 10_000 } else { TEXT_MAX })?;
            }
            let n_field = text.bytes().filter(|&byte| byte == b'{').count();
            let lengths: Option<Vec<usize>> = args.iter().map(n_byte).collect();
            let longest = lengths?.into_iter().max().unwrap_or(0);
            n_all.checked_add(n_field.checked_mul(longest)?)
        }
        _ => Some(n_text),
    }
}

/// The length of a value as text; `None` where it is more than [`TEXT_MAX`].
fn n_byte(value: &Value) -> Option<usize> {
    struct Room(usize);

    impl std::fmt::Write for Room {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.0 = self.0.checked_sub(text.len()).ok_or(std::fmt::Error)?;
            Ok(())
        }
    }

    let mut room = Room(TEXT_MAX);
    write!(room, "{value}").ok()?;
    Some(TEXT_MAX - room.0)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const CHATML: &str = "\
{% for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message['content'].strip() + '<|im_end|>\\n' -}}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
";

    const SYSTEM_IN_FIRST_USER: &str = "\
{% if messages[0].role == 'system' %}
{% set system = '<<SYS>>' + messages[0].content + '<</SYS>> ' %}
{% set messages = messages[1:] %}
{% else %}
{% set system = '' %}
{% endif %}
{% for m in messages %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate') }}
{% endif %}
{% if m.role == 'user' %}
{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content | trim + ' [/INST]' }}
{%- else %}
{{- ' ' + m.content + ' ' + eos_token }}
{%- endif %}
{% endfor %}";

    const NO_SYSTEM: &str = "\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}\
{{ raise_exception('no system prompts, please') }}{% endif %}\
{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}\
<start_of_turn>{{ role }}\n{{ message['content'] }}<end_of_turn>\n{% endfor %}\
{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}";

    fn render(source: Option<&str>, messages: &[(Role, &str)]) -> Result<String> {
        let template = template(source);
        let messages: Vec<_> =
            messages.iter().map(|&(role, text)| Message::new(role, text)).collect();
        template.render(&messages)
    }

    const TALK: [(Role, &str); 4] = [
        (Role::System, "Be brief."),
        (Role::User, "Is it so?"),
        (Role::Assistant, "It is."),
        (Role::User, "Why?"),
    ];

    #[test]
    fn renders_turns_between_markers() {
        assert_eq!(
            render(Some(CHATML), &TALK).unwrap(),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nIs it so?<|im_end|>\n\
             <|im_start|>assistant\nIt is.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n\
             <|im_start|>assistant\n"
        );
    }

    #[test]
    fn renders_a_system_prompt_inside_the_first_question() {
        assert_eq!(
            render(Some(SYSTEM_IN_FIRST_USER), &TALK).unwrap(),
            "<s>[INST] <<SYS>>Be brief.<</SYS>> Is it so? [/INST] It is. </s><s>[INST] Why? [/INST]"
        );
    }

    #[test]
    fn a_template_may_refuse_a_system_prompt() {
        let text = render(Some(NO_SYSTEM), &TALK[1..]).unwrap();
        assert!(text.starts_with("<s><start_of_turn>user\nIs it so?<end_of_turn>\n"), "{text}");
        assert!(text.ends_with("Why?<end_of_turn>\n<start_of_turn>model\n"), "{text}");
        let error = render(Some(NO_SYSTEM), &TALK).unwrap_err();
        assert!(matches!(error, Error::Template { .. }));
        assert!(error.to_string().contains("no system prompts, please"), "{error}");
    }

    #[test]
    fn a_model_without_a_template_gets_one_line_of_questions() {
        assert_eq!(render(None, &TALK).unwrap(), "Be brief.\n\nQ: Is it so? A: It is. Q: Why? A:");
        assert_eq!(render(None, &TALK[3..]).unwrap(), "Q: Why? A:");
    }

    fn template(source: Option<&str>) -> ChatTemplate {
        ChatTemplate::new(source.map(str::to_owned), "<s>".to_owned(), "</s>".to_owned())
    }

    #[test]
    fn becomes_a_form_for_questions() {
        let form = template(Some(CHATML)).form().unwrap();
        assert_eq!(
            form.as_str(),
            "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}"
        );
        assert_eq!(
            form.text_then("Why?", "So.", "How?").unwrap(),
            "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>\n\
             <|im_start|>user\nHow?"
        );
        // The space before an answer is the template's own.
        let form = template(Some(SYSTEM_IN_FIRST_USER)).form().unwrap();
        assert_eq!(form.as_str(), "<s>[INST] {question} [/INST] {answer}");
        assert_eq!(form.prompt_after("Be brief. ", "Why?"), "<s>[INST] Be brief. Why? [/INST]");
    }

    #[test]
    fn a_form_is_the_same_on_every_day() {
        let source = "{{ strftime_now('%d %b %Y') }}: {{ messages[0].content }} =";
        let form = template(Some(source)).form().unwrap();
        assert_eq!(form.as_str(), "26 Jul 2024: {question} ={answer}");
        // There is no place for another question.
        assert_eq!(form.text_then("Why?", "So.", "How?"), None);
    }

    #[test]
    fn a_form_asks_for_the_answer_and_not_for_thoughts() {
        let source = "{{ messages[0].content }}=\
                      {% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}";
        let form = template(Some(source)).form().unwrap();
        assert_eq!(form.as_str(), "{question}=<think></think>{answer}");
        assert_eq!(render(Some(source), &TALK[1..]).unwrap(), "Is it so?=");
    }

    #[test]
    fn there_is_no_form_without_a_template_or_a_question() {
        let error = template(None).form().unwrap_err().to_string();
        assert!(error.contains("without --chat"), "{error}");
        assert!(template(Some("hello {{ bos_token }}")).form().is_err());
    }

    #[test]
    fn tells_the_date() {
        let text = render(Some("{{ strftime_now('%Y') }}"), &[]).unwrap();
        assert!(text.parse::<u32>().is_ok_and(|year| year >= 2025), "{text}");
        assert!(render(Some("{{ strftime_now('%Q') }}"), &[]).is_err());
    }

    #[test]
    fn what_is_not_given_is_none() {
        let source = "{{ tools is none and documents is none }}";
        assert_eq!(render(Some(source), &[]).unwrap(), "True");
    }

    #[test]
    fn no_method_makes_more_text_than_a_context_holds() {
        let refusal = |source: &str| render(Some(source), &[]).unwrap_err().to_string();
        for hostile in [
            "{{ ('a' * 10000).replace('a', 'b' * 100000) }}",
            "{{ ('a' * 10000).replace('', 'b' * 100000) }}",
            "{{ 'a'.join([('b' * 1000000)] * 1000) }}",
            "{{ ('a' * 1000000).join([1] * 1000) }}",
            "{{ '{:099999999999d}'.format(1) }}",
            "{{ '{:.99999999999f}'.format(0.5) }}",
            "{{ ('{0}' * 10000).format('a' * 100000) }}",
            "{{ ('a' * 9000000).split('') }}",
            "{{ ('a' * 9000000).upper() }}",
        ] {
            let message = refusal(hostile);
            assert!(message.contains("a text of more than 2097152 bytes"), "{hostile}: {message}");
        }
        for slow in ["{{ 'a'.strip('b' * 1001) }}", "{{ ['a'].count('b' * 1001) }}"] {
            let message = refusal(slow);
            assert!(message.contains("a text of more than 1000 bytes"), "{slow}: {message}");
        }
        assert!(refusal("{{ strftime_now('%c' * 900) }}").contains("at most 1000 characters"));
        // What chats do with them still works.
        let source = "{{ 'a b'.replace(' ', '_') ~ ', '.join(['x', 1]) ~ '{:>5}'.format('y') }}";
        assert_eq!(render(Some(source), &[]).unwrap(), "a_bx, 1    y");
    }

    #[test]
    fn no_template_takes_all_memory() {
        let doubling = "{% set ns = namespace(x=[1]) %}\
                        {% for i in range(34) %}{% set ns.x = ns.x + ns.x %}{% endfor %}";
        let limits = Limits { time: Duration::from_secs(3600), ..LIMITS };
        let work = rendering(doubling, NaiveDateTime::default(), context! {});
        assert_eq!(confine(limits, work), Err(Overrun::Memory(50_000_000)));
        // Memory, or time where a tool watches this test.
        let template = template(Some(doubling));
        let error = template.render(&[]).unwrap_err().to_string();
        assert!(error.contains("it takes more than"), "{error}");
        // It is not tried again.
        let start = Instant::now();
        assert_eq!(template.clone().render(&[]).unwrap_err().to_string(), error);
        assert!(start.elapsed() < Duration::from_millis(100));
    }

    #[test]
    fn a_long_conversation_is_no_hostile_one() {
        // A megabyte: more than contexts hold.
        let text = "a".repeat(500);
        let turns = [(Role::User, text.as_str()), (Role::Assistant, &text)].repeat(1000);
        for source in [CHATML, SYSTEM_IN_FIRST_USER, NO_SYSTEM] {
            assert!(render(Some(source), &turns).unwrap().len() > 1_000_000);
        }
    }

    #[test]
    fn refuses_broken_and_endless_templates() {
        assert!(render(Some(&"a".repeat(SOURCE_MAX)), &TALK).is_ok());
        let long = render(Some(&"a".repeat(SOURCE_MAX + 1)), &TALK).unwrap_err().to_string();
        assert!(long.contains("at most 65536 are taken"), "{long}");
        assert!(render(Some("{% for %}"), &TALK).is_err());
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a * b }}{% endfor %}{% endfor %}";
        assert!(render(Some(endless), &TALK).is_err());
    }
}
