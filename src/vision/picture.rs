//! A picture's pixels, read from a file without trust.

use std::io::Cursor;
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::error::shown;
use crate::{Error, Result};

/// The largest file that is read, in bytes.
pub const MAX_BYTES: u64 = 64 << 20;
/// The most pixels that a picture may have.
pub const MAX_PIXELS: u64 = 64 << 20;
/// How many times longer than the other a side may be: llama.cpp scales a picture to the size that an
/// encoder takes, and aborts where a side comes out as nothing.
pub const MAX_ASPECT: u32 = 64;

/// An RGB picture, upright.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    rgb: Vec<u8>,
    width: u32,
    height: u32,
}

impl Picture {
    /// A picture of these pixels: `[height, width, 3]`, 8 bits each, row by row from the top.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the pixels are not as many as the size says, or the picture is empty,
    /// too large or too narrow.
    pub fn from_rgb(rgb: Vec<u8>, width: u32, height: u32) -> Result<Self> {
        let fail = |problem: String| Err(Error::invalid("picture", problem));
        if let Some(problem) = unusable(width, height) {
            return fail(problem);
        }
        if rgb.len() as u64 != u64::from(width) * u64::from(height) * 3 {
            return fail(format!("{} bytes are not {width} x {height} pixels of RGB", rgb.len()));
        }
        Ok(Self { rgb, width, height })
    }

    /// Reads a PNG, JPEG, WebP or GIF file (its first frame) and turns it upright, as its EXIF data
    /// says. What is transparent is white.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read, [`Error::Picture`] where it is no picture that
    /// candor reads, or one of more than [`MAX_BYTES`] or [`MAX_PIXELS`].
    pub fn open(path: &Path) -> Result<Self> {
        let n_byte = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
        let fail = |problem: String| Error::Picture { path: path.to_owned(), problem };
        if n_byte > MAX_BYTES {
            let problem = format!("it has {n_byte} bytes, more than the {MAX_BYTES} that are read");
            return Err(fail(problem));
        }
        Self::decode(&std::fs::read(path).map_err(Error::io("read", path))?).map_err(fail)
    }

    /// The same from the bytes of a file; the error is the problem alone.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let format = image::guess_format(bytes).ok().filter(|format| {
            use ImageFormat::{Gif, Jpeg, Png, WebP};
            matches!(format, Png | Jpeg | WebP | Gif)
        });
        let Some(format) = format else {
            return Err("it is not a PNG, JPEG, WebP or GIF: convert it to one of these".to_owned());
        };
        let plain = |error: image::ImageError| shown(&error.to_string()).to_string();
        let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
        let mut limits = Limits::default();
        // What a decoder may take: the pixels in the widest form, and as much again to work in.
        limits.max_alloc = Some(MAX_PIXELS * 8);
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(plain)?;
        let (width, height) = decoder.dimensions();
        if let Some(problem) = unusable(width, height) {
            return Err(problem);
        }
        let upright = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut image = DynamicImage::from_decoder(decoder).map_err(plain)?;
        image.apply_orientation(upright);
        let (width, height) = (image.width(), image.height());
        let rgb = if image.color().has_alpha() {
            let over_white = |pixel: &image::Rgba<u8>| {
                let [r, g, b, a] = pixel.0.map(u32::from);
                let blend = |value: u32| ((value * a + 255 * (255 - a) + 127) / 255) as u8;
                [blend(r), blend(g), blend(b)]
            };
            image.into_rgba8().pixels().flat_map(over_white).collect()
        } else {
            image.into_rgb8().into_raw()
        };
        Ok(Self { rgb, width, height })
    }

    /// The same picture, or a smaller one, of which no side is longer than `side`.
    #[must_use]
    pub fn within(&self, side: u32) -> Self {
        let longest = self.width.max(self.height);
        if longest <= side || side == 0 {
            return self.clone();
        }
        let scaled =
            |length: u32| (u64::from(length) * u64::from(side) / u64::from(longest)).max(1) as u32;
        let (width, height) = (scaled(self.width), scaled(self.height));
        let Some(image) = image::RgbImage::from_raw(self.width, self.height, self.rgb.clone())
        else {
            return self.clone();
        };
        let rgb = image::imageops::thumbnail(&image, width, height).into_raw();
        Self { rgb, width, height }
    }

    /// As a PNG file.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it cannot be encoded.
    pub fn png(&self) -> Result<Vec<u8>> {
        use image::ImageEncoder as _;
        let mut bytes = Vec::new();
        image::codecs::png::PngEncoder::new(&mut bytes)
            .write_image(&self.rgb, self.width, self.height, image::ExtendedColorType::Rgb8)
            .map_err(|error| Error::invalid("picture", error.to_string()))?;
        Ok(bytes)
    }

    /// The pixels, `[height, width, 3]`.
    #[must_use]
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// Pixels across.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Pixels down.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// What tells it from any other picture, whatever the file that it came from: BLAKE3 of its size
    /// and pixels.
    pub(crate) fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.width.to_le_bytes()).update(&self.height.to_le_bytes());
        hasher.update(&self.rgb).finalize()
    }
}

/// Why no picture of this size is taken.
fn unusable(width: u32, height: u32) -> Option<String> {
    let size = format!("{width} x {height} pixels");
    if width == 0 || height == 0 {
        return Some(format!("it is empty: {size}"));
    }
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Some(format!("{size} are more than the {MAX_PIXELS} that are read: scale it down"));
    }
    let (long, short) = (width.max(height), width.min(height));
    (long / short >= MAX_ASPECT).then(|| {
        format!("{size}: one side is at least {MAX_ASPECT} times the other: cut or pad it")
    })
}

#[cfg(test)]
mod tests {
    use image::{ExtendedColorType, ImageEncoder as _};

    use super::*;

    fn png(pixels: &[u8], width: u32, height: u32, color: ExtendedColorType) -> Vec<u8> {
        let mut bytes = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
        encoder.write_image(pixels, width, height, color).unwrap();
        bytes
    }

    #[test]
    fn reads_what_was_written() {
        let rgb: Vec<u8> = (0..6 * 3).collect();
        let picture = Picture::decode(&png(&rgb, 3, 2, ExtendedColorType::Rgb8)).unwrap();
        assert_eq!((picture.width(), picture.height(), picture.rgb()), (3, 2, &rgb[..]));
        assert_eq!(picture, Picture::from_rgb(rgb, 3, 2).unwrap());
    }

    #[test]
    fn is_made_smaller_and_written() {
        let rgb = (0..90 * 30).flat_map(|i| [if i % 90 < 45 { 200 } else { 0 }; 3]).collect();
        let picture = Picture::from_rgb(rgb, 90, 30).unwrap();
        assert_eq!(picture.within(90), picture);
        let small = picture.within(9);
        assert_eq!((small.width(), small.height(), small.rgb()[0]), (9, 3, 200));
        assert_eq!(Picture::decode(&small.png().unwrap()).unwrap(), small);
    }

    #[test]
    fn what_is_transparent_is_white() {
        let rgba = [10, 20, 30, 255, 10, 20, 30, 0, 0, 0, 0, 128];
        let picture = Picture::decode(&png(&rgba, 3, 1, ExtendedColorType::Rgba8)).unwrap();
        assert_eq!(picture.rgb(), [10, 20, 30, 255, 255, 255, 127, 127, 127]);
    }

    #[test]
    fn turns_a_picture_upright() {
        // Orientation 6: the camera was held on its side, and the picture is to be turned clockwise.
        let exif = [
            b"Exif\0\0II*\0".as_slice(),
            &8u32.to_le_bytes(),
            &1u16.to_le_bytes(),
            &[0x12, 0x01, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0],
            &0u32.to_le_bytes(),
        ]
        .concat();
        let mut jpeg = Vec::new();
        let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 100);
        encoder.set_exif_metadata(exif[6..].to_vec()).unwrap();
        // White on the left, black on the right, 16 x 8.
        let pixels: Vec<u8> =
            (0..8 * 16).flat_map(|i| [if i % 16 < 8 { 255 } else { 0 }; 3]).collect();
        encoder.write_image(&pixels, 16, 8, ExtendedColorType::Rgb8).unwrap();
        let picture = Picture::decode(&jpeg).unwrap();
        assert_eq!((picture.width(), picture.height()), (8, 16));
        let row = |y: usize| picture.rgb()[y * 8 * 3];
        assert!(row(1) > 200 && row(14) < 50, "{} {}", row(1), row(14));
    }

    #[test]
    fn refuses_what_is_no_picture_and_what_is_too_large() {
        let refused = |bytes: &[u8]| Picture::decode(bytes).unwrap_err();
        assert!(refused(b"").contains("not a PNG"));
        assert!(refused(b"BM and more").contains("not a PNG"));
        let whole = png(&[0; 64 * 3], 64, 1, ExtendedColorType::Rgb8);
        assert!(refused(&whole).contains("64 times"));
        let whole = png(&[0; 12], 2, 2, ExtendedColorType::Rgb8);
        for n in 0..whole.len() - 12 {
            assert!(Picture::decode(&whole[..n]).is_err(), "{n} bytes");
        }
        // A header that promises 65,535 x 65,535 pixels.
        let mut bomb = png(&[0; 12], 2, 2, ExtendedColorType::Rgb8);
        bomb[16..24].copy_from_slice(&[0, 0, 255, 255, 0, 0, 255, 255]);
        let mut crc = crc32(&bomb[12..29]).to_be_bytes();
        bomb[29..33].swap_with_slice(&mut crc);
        assert!(refused(&bomb).contains("scale it down"), "{}", refused(&bomb));
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| {
                (crc >> 1) ^ (0xEDB8_8320 & 0u32.wrapping_sub(crc & 1))
            })
        })
    }
}
