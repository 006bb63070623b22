// Colours and letters of the style sheet, for what is drawn on a canvas.

export const colours = new Map(); // emptied when light turns to dark

export function colour(variable) {
  if (!colours.has(variable)) {
    colours.set(variable, getComputedStyle(document.documentElement).getPropertyValue(`--${variable}`).trim());
  }
  return colours.get(variable);
}

export const font = (size) => `${size}px system-ui, sans-serif`;
