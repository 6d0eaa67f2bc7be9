//! What the table says of its tiles.

use crate::targets;
use mest_runtime::lanes::Isa;
use mest_runtime::tile::*;

#[test]
fn a_tile_describes_itself() {
    let tile = Tile::StageRows(StageRows {
        rows: 3,
        channels: 16,
        width: 8,
        left: 1,
        right: 1,
        rows_in_plane: 8,
        plane_channels: 16,
        fill: f32::NEG_INFINITY,
    });
    assert_eq!((tile.name(), tile.shape_name()), ("stage_rows", "StageRows"));
    assert_eq!(tile.fields()[1], ("channels", "16".to_owned()));
    assert_eq!(tile.fields()[7], ("fill", "f32::NEG_INFINITY".to_owned()));
    assert_eq!(tile.operands(), [("source", OperandKind::Pointer), ("first_row", OperandKind::Integer), ("target", OperandKind::Pointer)]);
    assert_eq!(tile.operand_types(), ["*const f32", "isize", "*mut f32"]);
    assert_eq!(tile.symbol_name(Isa::Avx2, 16), "mest_stage_rows_avx2_16");
    // SAFETY: the pointer is to the shape inside of `tile`, whose first field is `rows`.
    assert_eq!(unsafe { *tile.shape_pointer().cast::<usize>() }, 3);
    let inside = std::ptr::from_ref(&tile).addr()..std::ptr::from_ref(&tile).addr() + size_of::<Tile>();
    assert!(inside.contains(&tile.shape_pointer().addr()));
}

#[test]
fn names_are_unique_and_symbols_distinct() {
    let mut names = Tile::ALL_NAMES.to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Tile::ALL_NAMES.len());
    let tile = Tile::SumPartials(SumPartials { partials: 1, partial_stride: 1, elements: 1 });
    let symbols: Vec<_> = targets().into_iter().map(|(isa, lanes)| tile.symbol(isa, lanes)).collect();
    assert!((1..symbols.len()).all(|i| !symbols[..i].contains(&symbols[i]) || Isa::Avx512.available()));
}

#[test]
fn literals_are_rust() {
    assert_eq!(7_usize.literal(), "7");
    assert_eq!([0.0_f32, -0.0, 0.1, 1e-30].map(ShapeField::literal), ["0.0", "-0.0", "0.1", "1e-30"]);
    assert_eq!([f32::INFINITY, f32::NAN].map(ShapeField::literal), ["f32::INFINITY", "f32::NAN"]);
}
