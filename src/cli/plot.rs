//! stub
pub(super) fn check_extension(_: &std::path::Path) -> crate::Result<()> {
    Ok(())
}
pub(super) fn heat_map(
    _: &std::path::Path,
    _: &[f32],
    _: usize,
    _: usize,
    _: &[crate::Site],
) -> crate::Result<()> {
    Ok(())
}
