//! stub
use std::collections::BTreeMap;
/// stub
pub struct SteeringVector {}
impl SteeringVector {
    /// stub
    pub fn check_geometry(&self, _: usize, _: usize, _: usize) -> crate::Result<()> {
        Ok(())
    }
    /// stub
    pub fn offsets(&self, _: f32) -> BTreeMap<usize, Vec<f32>> {
        BTreeMap::new()
    }
}
