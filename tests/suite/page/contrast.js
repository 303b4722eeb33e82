// The texts of the page that are too faint for what they stand on (WCAG 2: a contrast of 4.5, or 3 where they are large).
const parts = (colour) => {
  const [red, green, blue, alpha = 1] = colour.match(/[\d.]+/g).map(Number);
  return { rgb: [red, green, blue], alpha };
};
const light = (rgb) => {
  const [red, green, blue] = rgb.map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const over = ({ rgb, alpha }, below) => rgb.map((value, at) => alpha * value + (1 - alpha) * below[at]);
const ground = (element) => {
  if (element === null) return [255, 255, 255];
  const own = parts(getComputedStyle(element).backgroundColor);
  return own.alpha === 1 ? own.rgb : over(own, ground(element.parentElement));
};
const faint = [];
for (const element of document.querySelectorAll('body *')) {
  const said = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim() !== '');
  if (!said || !element.checkVisibility() || element.closest('.unseen, .skip')) continue;
  const style = getComputedStyle(element);
  const below = ground(element);
  const [dark, bright] = [light(below), light(over(parts(style.color), below))].sort((a, b) => a - b);
  const contrast = (bright + 0.05) / (dark + 0.05);
  const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.7 && style.fontWeight >= 700);
  if (contrast < (large ? 3 : 4.5)) faint.push(`${contrast.toFixed(2)} ${element.className}: ${element.textContent}`);
}
return faint.join('\n');
