//! NumPy's `.npy`: a table of f32 or f64, and nothing else.
//!
//! Format: numpy.lib.format, versions 1 to 3. Two kinds of numbers in C order need no crate with a Python literal parser.

/// The rows of a two-dimensional array.
///
/// # Errors
/// Another format, kind of number, order or number of dimensions; a file that stops early.
pub fn rows(bytes: &[u8]) -> Result<Vec<Vec<f32>>, String> {
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("not a .npy file")?;
    let (length, start): (usize, usize) = match rest {
        [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([*a, *b])), 4),
        [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 6),
        _ => return Err("a .npy file of an unknown version".into()),
    };
    let header = rest.get(start..start.saturating_add(length)).ok_or("the header stops early")?;
    let header = std::str::from_utf8(header).map_err(|_| "a header that is no text")?;
    let wide = match (header.contains("'<f4'"), header.contains("'<f8'")) {
        (true, _) => 4,
        (_, true) => 8,
        _ => return Err(format!("expected '<f4' or '<f8', found {header}")),
    };
    if header.contains("'fortran_order': True") {
        return Err("expected C order, found Fortran's".into());
    }
    let shape = header.split_once("'shape': (").and_then(|(_, s)| s.split_once(')')).map_or("", |s| s.0);
    let sides: Result<Vec<usize>, _> = shape.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::parse).collect();
    let Ok([n, width]) = <[usize; 2]>::try_from(sides.unwrap_or_default()) else {
        return Err(format!("expected two dimensions, found ({shape})"));
    };
    let data = &rest[start + length..];
    let expected = n.checked_mul(width).and_then(|v| v.checked_mul(wide)).ok_or("a shape beyond memory")?;
    if data.len() != expected {
        return Err(format!("expected {expected} bytes of numbers, found {}", data.len()));
    }
    if width == 0 {
        return Ok(vec![Vec::new(); n]);
    }
    let number = |b: &[u8]| match wide {
        4 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        _ => f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32,
    };
    Ok(data.chunks_exact(width * wide).map(|row| row.chunks_exact(wide).map(number).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend((header.len() as u16).to_le_bytes());
        out.extend(header.as_bytes());
        out.extend(data);
        out
    }

    #[test]
    fn tables_and_mistakes() {
        let data: Vec<u8> = [1.0f32, 2.0, 3.0, -4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }\n";
        assert_eq!(rows(&file(header, &data)).unwrap(), [[1.0, 2.0], [3.0, -4.0]]);
        assert!(rows(&file(header, &data[..12])).unwrap_err().contains("16 bytes"));
        assert!(rows(&file(&header.replace("<f4", "<i8"), &data)).unwrap_err().contains("<f4"));
        assert!(rows(&file(&header.replace("(2, 2)", "(4,)"), &data)).unwrap_err().contains("two dimensions"));
        assert!(rows(&file(&header.replace("False", "True"), &data)).is_err());
        assert!(rows(b"\x93NUMPY\x01").is_err() && rows(b"PK").is_err());
    }
}
