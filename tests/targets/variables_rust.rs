use std::collections::HashMap;
#[derive(Debug, Clone)]
enum Shape { Unit, Circle(f64), Rect { w: u32, h: u32 }, Name(String) }
#[derive(Clone, Copy, PartialEq)]
enum Level { Low = 1, High = 9 }
struct Point { x: i32, y: i64, tag: u8 }
static mut COUNTER: u64 = 5;
#[inline(never)]
fn area(s: &Shape, n: u32, text: &str, level: Level) -> u32 {
    let base = n * 2;
    let got = match s { Shape::Unit => 1, Shape::Circle(r) => *r as u32, Shape::Rect { w, h } => w * h, Shape::Name(t) => t.len() as u32 };
    unsafe { COUNTER += got as u64; }
    got + base + text.len() as u32 + level as u32
}
#[inline(never)]
fn sum(v: &[u64], o: Option<u32>, b: Option<Box<Point>>) -> u64 {
    let mut total = 0u64;
    for (i, x) in v.iter().enumerate() {
        total += x * i as u64;
    }
    if let Some(p) = b { total += p.x as u64 + p.y as u64 + p.tag as u64; }
    total + o.unwrap_or(3) as u64
}
fn main() {
    let shapes = vec![Shape::Unit, Shape::Circle(2.5), Shape::Rect { w: 3, h: 4 }, Shape::Name("hello".to_string())];
    let mut all = 0;
    let letter = 'é';
    let tuple = (1u8, -2i16, true);
    for s in &shapes { all += area(s, 7, "text", if all > 3 { Level::High } else { Level::Low }); }
    let v: Vec<u64> = (1..6).collect();
    let t = sum(&v, Some(8), Some(Box::new(Point { x: 1, y: 2, tag: 3 })));
    let mut m = HashMap::new();
    m.insert("k".to_string(), 1);
    let label = "a label";
    let none: Option<u32> = None;
    let some = Some(Box::new(Point { x: -1, y: 2, tag: 3 }));
    let level = Level::High;
    println!("{} {} {} {:?} {}", all, t, letter, tuple, m.len()); // all of them
    println!("{} {:?} {} {}", label, none, some.map_or(0, |p| p.x), level as u32);
}
