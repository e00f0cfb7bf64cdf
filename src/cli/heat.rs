//! stub
pub(super) fn terminal(_: &[f32], _: usize, _: usize, _: &[crate::Site]) -> String {
    String::new()
}
