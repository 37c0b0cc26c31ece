// A picture to start from, and a brush that marks the parts to replace. props: picture (a data URL, "" for none), mask
// (a data URL of the first mask), loading (a text that changes each time that both are to be loaded, even if they are
// the same as before). value: {"picture", "mask"} as JSON; the mask has the picture's size and is white where painted.
const $ = (name) => element.querySelector(name);
const [canvas, file, size, wipe, remove, stage] =
  ["canvas", "input[type=file]", "input[type=range]", ".wipe", ".remove", ".stage"].map($);
const mask = document.createElement("canvas"), image = new Image();
let picture = "", painted = false, last = null;

function say() {
  const flat = document.createElement("canvas");
  [flat.width, flat.height] = [mask.width, mask.height];
  const pen = flat.getContext("2d");
  pen.fillRect(0, 0, flat.width, flat.height);  // black
  pen.drawImage(mask, 0, 0);
  props.value = JSON.stringify({ picture, mask: painted ? flat.toDataURL("image/png") : "" });
  trigger("change");
}

function draw() {
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(image, 0, 0);
  pen.globalAlpha = 0.55;
  const tint = document.createElement("canvas");
  [tint.width, tint.height] = [mask.width, mask.height];
  const colour = tint.getContext("2d");
  colour.drawImage(mask, 0, 0);
  colour.globalCompositeOperation = "source-in";
  colour.fillStyle = "#ff3d7f";
  colour.fillRect(0, 0, tint.width, tint.height);
  pen.drawImage(tint, 0, 0);
  pen.globalAlpha = 1;
}

function load(address, oldMask) {
  picture = address;
  painted = false;
  file.value = "";  // so that the same file can be chosen again
  element.classList.toggle("has-picture", !!address);
  element.classList.remove("unseen");
  if (!address) { say(); return; }
  image.onload = () => {
    for (const one of [canvas, mask]) [one.width, one.height] = [image.naturalWidth, image.naturalHeight];
    stage.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
    element.classList.toggle("coarse", Math.max(image.naturalWidth, image.naturalHeight) <= 256);
    if (!oldMask) { draw(); say(); return; }
    const drawn = new Image();
    drawn.onload = () => {  // black becomes transparent, as the brush leaves it
      const pen = mask.getContext("2d");
      pen.drawImage(drawn, 0, 0);
      const data = pen.getImageData(0, 0, mask.width, mask.height);
      for (let i = 0; i < data.data.length; i += 4) data.data[i + 3] = data.data[i] < 128 ? 0 : 255;
      pen.putImageData(data, 0, 0);
      painted = true;
      draw();
      say();
    };
    drawn.src = oldMask;
  };
  image.onerror = () => { element.classList.add("unseen"); say(); };  // the server may read it, or says what is wrong
  image.src = address;
}

function dab(event) {
  const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
  const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  const radius = Math.max(0.5, (size.value / 200) * Math.max(canvas.width, canvas.height));
  const pen = mask.getContext("2d"), from = last || [x, y];
  const count = Math.ceil(Math.hypot(x - from[0], y - from[1]) / (radius / 2)) + 1;
  for (let i = 1; i <= count; i++) {  // whole pixels, so that nothing is painted by half
    const [u, v] = [from[0] + ((x - from[0]) * i) / count, from[1] + ((y - from[1]) * i) / count];
    for (let row = Math.floor(v - radius); row <= v + radius; row++)
      for (let column = Math.floor(u - radius); column <= u + radius; column++)
        if (Math.hypot(column + 0.5 - u, row + 0.5 - v) <= radius) pen.fillRect(column, row, 1, 1);
  }
  last = [x, y];
  painted = true;
  draw();
}

canvas.addEventListener("pointerdown", (event) => {
  mask.getContext("2d").fillStyle = "#fff";
  canvas.setPointerCapture(event.pointerId);
  dab(event);
});
canvas.addEventListener("pointermove", (event) => { if (last) dab(event); });
for (const end of ["pointerup", "pointercancel"])
  canvas.addEventListener(end, () => { if (last) { last = null; say(); } });
wipe.addEventListener("click", () => {
  mask.getContext("2d").clearRect(0, 0, mask.width, mask.height);
  painted = false;
  draw();
  say();
});
remove.addEventListener("click", () => load(""));

function read(chosen) {
  const reader = new FileReader();
  reader.onload = () => load(reader.result);
  if (chosen) reader.readAsDataURL(chosen);
}
file.addEventListener("change", () => read(file.files[0]));
stage.addEventListener("dragover", (event) => event.preventDefault());
stage.addEventListener("drop", (event) => { event.preventDefault(); read(event.dataTransfer.files[0]); });
watch("loading", () => load(props.picture, props.mask));
