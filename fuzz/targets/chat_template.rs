#![no_main]

use libfuzzer_sys::Corpus;

#[global_allocator]
static ALLOCATOR: candor::Bounded = candor::Bounded::system();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| -> Corpus {
    let rendered = candor_fuzz::parsers::rendered(bytes);
    let overran = |error: candor::Error| error.to_string().contains("it takes more than");
    // What overran stays in memory, and so would all that is made of it.
    if rendered.is_some_and(|rendered| rendered.is_err_and(overran)) {
        Corpus::Reject
    } else {
        Corpus::Keep
    }
});
